"""A world, and what it is compared with -> all measurements of the evaluation protocol.

What cannot be measured is said with its reason: weights that are not there, a path that returns
to no place, no reference. What is wrong with the input stops the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldloom.generator.evaluate.frames import Frame, read_picture
from worldloom.generator.evaluate.geometry import collider_measures, geometry_measures
from worldloom.generator.evaluate.measures import Measure, unmeasured
from worldloom.generator.evaluate.networks import Networks
from worldloom.generator.evaluate.pixels import Picture, is_black
from worldloom.generator.evaluate.reference import Reference, TruthReference, both
from worldloom.generator.evaluate.similarity import ms_ssim, psnr, ssim
from worldloom.generator.evaluate.subjective import read_scores, subjective_quality
from worldloom.generator.evaluate.world import EvaluatedWorld, spread
from worldloom.render.rasterise import Render, rasterise
from worldloom.scene.errors import InvalidRequest, NotFound
from worldloom.scene.path import CHUNK_FRAMES

Pairs = Sequence[tuple[Picture, Picture]]
COVERED = ("splat_covered", "splat_covered_psnr")
OPAQUE = 0.5  # Opacity from which on a pixel counts as covered.
NO_REFERENCE = "needs a reference: --truth SCENE or --real FOLDER"


@dataclass(frozen=True)
class Options:
    """What to compare a world with, and how much of it."""

    reference: Reference | None = None
    networks: Networks = field(default_factory=Networks)
    views: int = 20
    """Most frames that are compared one by one; 0 = all."""
    scores: Path | None = None
    """Scores of CLIP-IQA+ and the aesthetic predictor, made elsewhere."""
    photo: Path | None = None
    """The input picture, for style consistency."""
    say: Callable[[str], None] = lambda _: None
    """Told what is being measured."""


@dataclass(frozen=True)
class Evaluation:
    """All that was found out about a world."""

    world: EvaluatedWorld
    measures: tuple[Measure, ...]
    held_out: tuple[int, ...]
    """Frames that the splats were compared at."""
    renders: dict[int, Render]
    """The splats at these frames."""
    video: dict[int, Frame]
    """The video at these frames."""


def evaluate(world: EvaluatedWorld, options: Options) -> Evaluation:
    """Measure everything that can be measured.

    Raises:
        InvalidRequest: An input is unusable.
        CorruptData: A file of the world or a weights file is damaged.
    """
    options.networks.check()
    numbers = world.held_out(options.views)
    options.say(f"decode {len(numbers)} held-out frames")
    video = world.frames(numbers)
    if video and all(is_black(frame) for frame in video.values()):
        raise InvalidRequest(
            f"all {len(video)} held-out frames of {world.folder} are black; there is nothing to "
            "compare. Look at its video"
        )
    options.say(f"render {world.splats.n:,} splats at {len(numbers)} held-out frames")
    renders = {number: draw(world, number) for number in numbers}
    measures = video_measures(world, options)
    measures += splat_measures(world, options, renders, video)
    options.say("consistency and control")
    measures += appearance_measures(world, options)
    measures += geometry_measures(world, options.networks, _scene(options.reference))
    options.say("collider and cost")
    measures += collider_measures(world, _scene(options.reference))
    measures += cost_measures(world)
    return Evaluation(world, tuple(measures), tuple(numbers), renders, video)


def draw(world: EvaluatedWorld, number: int) -> Render:
    """The splats at the commanded camera of a frame."""
    row = world.row(number)
    return rasterise(world.splats, world.cameras.c2w[row], world.cameras.K[row], world.size)


def video_measures(world: EvaluatedWorld, options: Options) -> list[Measure]:
    """The generated video against its reference, frame by frame and as a set."""
    keys = ("video_psnr", "video_ssim", "video_ms_ssim", "video_lpips_alex", "video_lpips_vgg")
    if options.reference is None:
        return unmeasured((*keys, "video_fid"), NO_REFERENCE)
    numbers = world.held_out(options.views)
    if not isinstance(options.reference, TruthReference):
        # A real walk is compared with the whole video, as the paper does.
        numbers = spread(world.video_id.tolist(), options.views)
    options.say(f"video against {options.reference.data}, {len(numbers)} frames")
    triples = both(options.reference, world.frames(numbers))
    if not triples:
        return unmeasured((*keys, "video_fid"), "no frame of the reference belongs to a frame")
    data = f"{options.reference.data}; {len(triples)} frames, one by one"
    pairs = [(picture, wanted) for _, picture, wanted in triples]
    found = picture_measures(keys, pairs, data, options.networks)
    return [*found, fid_measure("video_fid", pairs, data, options.networks)]


def splat_measures(
    world: EvaluatedWorld,
    options: Options,
    renders: dict[int, Render],
    video: dict[int, Frame],
) -> list[Measure]:
    """Renders at held-out frames against the video (P) and against the reference (G)."""
    keys = ("splat_psnr", "splat_ssim", "splat_ms_ssim", "splat_lpips_p_alex", "splat_lpips_p_vgg")
    keys_g = ("truth_psnr", "truth_ssim", "truth_ms_ssim", "truth_lpips_g_alex",
              "truth_lpips_g_vgg", "truth_fid")  # fmt: skip
    if not renders:
        return unmeasured((*COVERED, *keys, *keys_g), "every frame of the video is a keyframe")
    pairs = [(renders[n].rgb, video[n]) for n in renders]
    data = f"its own video; {len(pairs)} held-out frames"
    found = picture_measures(keys, pairs, data, options.networks)
    found += covered_measures(renders, video, data)
    if options.reference is None:
        return found + unmeasured(keys_g, NO_REFERENCE)
    triples = both(options.reference, {n: render.rgb for n, render in renders.items()})
    if not triples:
        return found + unmeasured(keys_g, "no frame of the reference is a held-out frame")
    data = f"{options.reference.data}; {len(triples)} held-out frames"
    wanted = [(picture, reference) for _, picture, reference in triples]
    found += picture_measures(keys_g[:5], wanted, data, options.networks)
    return [*found, fid_measure("truth_fid", wanted, data, options.networks)]


def covered_measures(
    renders: dict[int, Render], video: dict[int, Frame], data: str
) -> list[Measure]:
    """How much of the pictures the splats cover, and how good they are there."""
    masks = {number: render.alpha >= OPAQUE for number, render in renders.items()}
    levels = [psnr(renders[n].rgb, video[n], mask=m) for n, m in masks.items() if m.any()]
    share = float(np.mean([mask.mean() for mask in masks.values()]))
    note = f"opacity at least {OPAQUE:g}; the rest is where no keyframe looked"
    if not levels:
        return unmeasured(COVERED, f"no splat is seen in {len(renders)} held-out frames")
    return [
        Measure("splat_covered", 100 * share, data, note=note),
        Measure("splat_covered_psnr", float(np.mean(levels)), data),
    ]


def picture_measures(
    keys: tuple[str, ...], pairs: Pairs, data: str, networks: Networks
) -> list[Measure]:
    """Means of PSNR, SSIM, MS-SSIM and both LPIPS over pairs, under five names."""
    makers: tuple[Callable[[Picture, Picture], float] | None, ...] = (psnr, ssim, ms_ssim)
    found = [
        attempt(key, data, lambda make=make: _mean(make, pairs))
        for key, make in zip(keys, makers, strict=False)
    ]
    for key, variant in zip(keys[3:], ("alex", "vgg"), strict=True):
        found.append(attempt(key, data, lambda v=variant: _mean(networks.lpips(v).distance, pairs)))
    return found


def fid_measure(key: str, pairs: Pairs, data: str, networks: Networks) -> Measure:
    """FID of the pictures of pairs against their references."""
    from worldloom.generator.evaluate.fid import features_of, fit, frechet_distance

    def make() -> float:
        net = networks.inception()
        judged, wanted = (fit(features_of(net, side)) for side in zip(*pairs, strict=True))
        return frechet_distance(judged, wanted)

    note = f"two sets of {len(pairs)} pictures: biased upwards below 2,048"
    return attempt(key, data, make, note=note)


def appearance_measures(world: EvaluatedWorld, options: Options) -> list[Measure]:
    """Style consistency, and subjective quality from scores made elsewhere."""
    return [_style(world, options), _subjective(options)]


def cost_measures(world: EvaluatedWorld) -> list[Measure]:
    """Time and memory of the run that made the world."""
    run, keys = world.run, ("seconds", "seconds_per_chunk", "peak_memory")
    machine = run.get("machine", {})
    data = f"run.json: {machine.get('cpus', '?')} CPUs, {machine.get('system', 'unknown system')}"
    values = {key: run.get(key) for key in ("seconds", "peak_memory_mb")}
    if not all(isinstance(value, int | float) for value in values.values()):
        return unmeasured(keys, "the world has no run.json with `seconds` and `peak_memory_mb`")
    frames = max(1, int(run.get("frames", world.cameras.n)) - 1)
    per_chunk = values["seconds"] * CHUNK_FRAMES / frames
    found = zip(keys, (values["seconds"], per_chunk, values["peak_memory_mb"]), strict=True)
    return [Measure(key, float(value), data) for key, value in found]


def attempt(key: str, data: str, make: Callable[[], float], *, note: str = "") -> Measure:
    """A measurement, or the reason why it cannot be made."""
    try:
        return Measure(key, float(make()), data, note=note)
    except (NotFound, InvalidRequest) as error:
        return Measure(key, None, reason=str(error))


def _style(world: EvaluatedWorld, options: Options) -> Measure:
    from worldloom.generator.evaluate.style import style_consistency, style_distance

    anchors = [n for n in world.video_id.tolist() if n and n % CHUNK_FRAMES == 0]
    source, first = "the first frame of its video", int(world.video_id[0])

    def make() -> float:
        net = options.networks.vgg19()
        frames = world.frames([first, *anchors])
        wanted = frames[first] if options.photo is None else read_picture(options.photo)
        return style_consistency(style_distance(net, wanted, [frames[n] for n in anchors]))

    if options.photo is not None:
        source = f"the photo {options.photo.name}"
    if not anchors:
        return Measure("style", None, reason="no chunk of 80 frames is complete")
    return attempt("style", f"its own video: {len(anchors)} ends of chunks against {source}", make)


def _subjective(options: Options) -> Measure:
    if options.scores is None:
        return Measure(
            "subjective", None,
            reason="needs scores of CLIP-IQA+ and the aesthetic predictor: --scores FILE",
        )  # fmt: skip
    scores = read_scores(options.scores)
    value = subjective_quality(scores["clip_iqa"], scores["aesthetic"])
    return Measure("subjective", value, f"scores of {options.scores.name}")


def _scene(reference: Reference | None) -> str | None:
    return reference.name if isinstance(reference, TruthReference) else None


def _mean(make: Callable[[Picture, Picture], float], pairs: Pairs) -> float:
    return float(np.mean([make(a, b) for a, b in pairs]))
