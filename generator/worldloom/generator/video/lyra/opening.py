"""A request for a Lyra engine -> its seed and its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldloom.generator.engines import QualityLevel
from worldloom.generator.seams import Opening
from worldloom.generator.seed import Seed, make_seed
from worldloom.generator.video.lyra.loop import LyraOptions
from worldloom.generator.video.lyra.model import LyraModel, PromptBook
from worldloom.scene.errors import EngineFailed
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest

if TYPE_CHECKING:
    from worldloom.generator.depth.da3.window_lifter import WindowLifter

ASPECT = (26, 15)
"""Width to height that the network was trained at: 832 x 480."""
SIDE_MULTIPLE = 16  # Frame sides divide by this: 8 for the VAE, 2 for a token.
CARRIED_NOTE = (
    "depth of the generated frames is the photo's depth carried along by the memory, without a "
    "depth network"
)
ABSENT_NOTE = (
    f"the weights da3-nested are not there, so {CARRIED_NOTE}; bring them with: worldloom weights "
    "convert da3-nested SOURCE"
)
DEPTHS = ("carried", "da3")
"""What a preset's option `depth` may be: carried along, or Depth Anything 3 where it is present."""
TINY_NOTE = "this engine has tiny random weights: its pictures mean nothing"


def frame_size(long_side: int) -> tuple[int, int]:
    """Width and height of the frames."""
    height = SIDE_MULTIPLE * round(long_side * ASPECT[1] / ASPECT[0] / SIDE_MULTIPLE)
    return long_side, max(SIDE_MULTIPLE, height)


def open_lyra(
    request: WorldRequest,
    inputs: Mapping[str, Path],
    level: QualityLevel,
    limits: Limits,
    *,
    options: Mapping[str, Any],
) -> Opening:
    """Decode the photo, estimate its depth, and load the networks.

    Raises:
        InvalidPhoto: The photo cannot be used.
        InvalidDepth: The supplied depth cannot be used.
        NotFound: Weights are missing; the text says how to get them.
        EngineFailed: Weights do not fit, or the networks do not fit into memory.
    """
    seed = make_seed(
        inputs["photo"],
        work_size=frame_size(level.long_side),
        depth_file=inputs.get("depth"),
        intrinsics=request.intrinsics,
        scale_hint=request.scale,
        limits=limits,
    )
    how = LyraOptions(
        seed=request.seed,
        **{
            key: options[key]
            for key in ("steps", "guidance", "shift", "distilled", "views", "vae_group")
            if key in options
        },
    )
    _check_depth(options)
    if options["networks"] == "tiny":
        return _open_tiny(request, seed, how, options)
    return _open_released(request, seed, how, options)


def _check_depth(options: Mapping[str, Any]) -> None:
    depth = options.get("depth", DEPTHS[0])
    if depth not in DEPTHS:
        raise EngineFailed(
            f"the preset's option depth is {depth!r}; it must be one of {', '.join(DEPTHS)}"
        )


def _open_tiny(
    request: WorldRequest, seed: Seed, how: LyraOptions, options: Mapping[str, Any]
) -> Opening:
    from worldloom.generator.video.lyra.tiny import tiny_depth, tiny_embedding, tiny_networks

    book = PromptBook(request.prompts, tiny_embedding, tiny_embedding(""))
    depth = tiny_depth() if options.get("depth") == "da3" else None
    notes = (TINY_NOTE,) if depth is not None else (TINY_NOTE, CARRIED_NOTE)
    noted = replace(seed, notes=(*seed.notes, *notes))
    return Opening(noted, LyraModel(noted, tiny_networks(), how, book, depth=depth))


def _open_released(
    request: WorldRequest, seed: Seed, how: LyraOptions, options: Mapping[str, Any]
) -> Opening:
    from worldloom.generator.video.lyra.released import open_released

    height, width = seed.depth.shape
    wanted = options.get("depth") == "da3"
    parts = open_released(
        request.engine, (width, height), list(request.prompts.values()),
        adapters=options.get("adapters", {}), guided=not how.distilled, depth=wanted,
    )  # fmt: skip
    book = PromptBook(request.prompts, parts.embed, parts.negative)
    notes = seed.notes
    if parts.depth is None:
        notes = (*notes, ABSENT_NOTE if wanted else CARRIED_NOTE)
    lifter = _lifter(options)
    extra = () if lifter is None else tuple(w.to_json() for w in lifter.lifter.weights)
    records = (*parts.records, *extra)
    noted = replace(seed, notes=notes, weights=(*seed.weights, *records))
    return Opening(
        noted, LyraModel(noted, parts.networks, how, book, depth=parts.depth), lifter=lifter
    )


def _lifter(options: Mapping[str, Any]) -> WindowLifter | None:
    """The Gaussian head, where the preset wants it and its weights are there."""
    if options.get("splats") != "da3":
        return None
    from worldloom.generator.depth.da3.window_lifter import WindowLifter
    from worldloom.generator.depth.models import choose_lifter

    found = choose_lifter()
    return None if found is None else WindowLifter(found)
