"""The whole arrow: a request becomes a world, chunk by chunk.

For every chunk of 80 frames: the frame model retrieves from the memory, generates and updates it;
its keyframes are lifted to splats, which are written at once, and fused into one surface; a
revision of the world is published; a checkpoint is taken. Where another device generates, the
surface is made while the next chunk comes. Whoever opens the world folder at any moment finds a
whole world, and a killed job goes on at its last chunk with the same bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from worldloom.generator.behind import Behind
from worldloom.generator.checkpoint import (
    Growth,
    load_checkpoint,
    model_folder,
    save_checkpoint,
)
from worldloom.generator.engines import Engine, load_engine
from worldloom.generator.finish import exchange_files, run_record
from worldloom.generator.generate_stage import Generated, generate_chunk
from worldloom.generator.grow import fuse_new, lift_new, place_frames, start_growth
from worldloom.generator.job import Job
from worldloom.generator.later_scale import later_scale
from worldloom.generator.layers.cameras_layer import cameras_layer_text
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.parent import Parent, adopt_parent
from worldloom.generator.publish import Emit, Publisher
from worldloom.generator.records import keyframes_npz
from worldloom.generator.seams import Opening
from worldloom.generator.splat_stage import refine_files, write_splats
from worldloom.generator.surface.vdb import openvdb_module
from worldloom.generator.surface_stage import build_surface, write_surface
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.events import Artifact, Log, Progress
from worldloom.scene.manifest import Manifest, notices_for
from worldloom.scene.path import CHUNK_FRAMES, lyra_frames
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import write_whole

LOGGER = logging.getLogger(__name__)

MADE_UP_NOTICE = (
    "Parts of this world that the photo did not show were made up by the engine; "
    "depth/keyframes.npz tells which."
)


def make_world(
    request: WorldRequest,
    *,
    inputs: Mapping[str, Path],
    work: Path,
    resume: bool,
    emit: Emit,
    cancelled: Callable[[], bool],
    kind: str = "generate",
) -> Manifest:
    """Make the world of `request` under `work/world`, or go on with it.

    Args:
        request: What to make; already checked.
        inputs: Uploaded files by role (`photo`, `depth`), and for extensions `parent`: the work
            folder of the job that is extended.
        work: Folder of this job alone; `world/` and `checkpoint/` are kept in it.
        resume: Whether an earlier run of the same job may have left checkpoints.
        emit: Receives Progress, Artifact, Log and Preview; artifacts after they are on disk.
        cancelled: Asked between frames.
        kind: `generate`, `seed` (the photo only), `extend` or `revert`.

    Raises:
        InvalidRequest: An input turned out to be unusable.
        JobCancelled: `cancelled` became true; what was made stays.
        EngineFailed: The engine could not go on.
        StorageFull: No space is left.
    """
    engine = load_engine(request.engine)
    if "vdb" in request.output.formats:
        openvdb_module()  # Its lack is told now, and not after hours of work.
    publisher = Publisher(work, emit)
    emit(Progress("seed", 0, 1, "photo"))
    opening = engine.open(request, inputs)
    for note in opening.seed.notes:
        emit(Log("info", note))
    parent = adopt_parent(inputs, publisher, kind, resume=resume)
    growth = load_checkpoint(work) if resume or parent else None
    job = _make_job(request, engine, opening, publisher, work, emit, cancelled, parent)
    if growth is None:
        growth = _seed_world(job)
    elif growth.revision > job.first_revision or parent is None:
        publisher.announce(growth.files, growth.revision)
    emit(Progress("seed", 1, 1, "photo"))
    if kind in ("seed", "revert"):
        return _publish(job, growth, complete=True)
    cache = _fill_cache(growth)
    opening.model.recall(model_folder(work, growth.revision))
    job.resumed_frames = CHUNK_FRAMES * (growth.revision - job.first_revision)
    _grow(job, growth, cache)
    if job.request.output.refine_steps and not growth.refined:
        _refine(job, growth)
    return _finish(job, growth)


def _make_job(
    request: WorldRequest,
    engine: Engine,
    opening: Opening,
    publisher: Publisher,
    work: Path,
    emit: Emit,
    cancelled: Callable[[], bool],
    parent: Parent | None,
) -> Job:
    if opening.cameras is not None:
        own = opening.cameras
        return Job(request, engine, opening, publisher, work, emit, cancelled, own, parent)
    frames = lyra_frames(request.path.frames)
    if frames != request.path.frames:
        text = f"the path has {request.path.frames} frames; resampled to {frames} = 1 + 80 n"
        emit(Log("info", text))
    height, width = opening.seed.depth.shape
    start = opening.seed.c2w if parent is None else parent.last_c2w
    cameras = request.path.resampled(frames).resolve(start, opening.seed.K, (width, height))
    if parent is not None:
        cameras = replace(cameras, frame_id=cameras.frame_id + parent.last_frame)
    return Job(request, engine, opening, publisher, work, emit, cancelled, cameras, parent)


def _seed_world(job: Job) -> Growth:
    """Revision 0: the photo's own splats and surface."""
    growth = start_growth(job.opening.seed, job.recipe.level)
    frame = job.opening.model.first()
    growth.cameras = job.cameras.select(slice(0, 1))
    place_frames(growth, [frame], job.recipe, 0)
    write_splats(growth, lift_new(growth, 1), job.publisher, 0)
    fuse_new(growth, 1, job.recipe, 0.0)
    write_surface(growth, *build_surface(growth, job.recipe), job.publisher, 0)
    _publish(job, growth)
    job.opening.model.keep(model_folder(job.work, 0))
    save_checkpoint(job.work, growth, [frame])
    return growth


def _grow(job: Job, growth: Growth, cache: FrameCache) -> None:
    """Make all chunks that are left; each one's surface may come while the next is generated."""
    with Behind(beside=job.engine.surface_beside) as behind:
        for done in range(growth.revision - job.first_revision, job.chunks):
            first = 1 + CHUNK_FRAMES * done
            cameras = job.cameras.select(slice(first, first + CHUNK_FRAMES))
            chunk = job.first_revision + done + 1
            made = generate_chunk(job, cache, cameras, chunk, first)
            # The model's state belongs to this chunk and is gone when the next one begins.
            job.opening.model.keep(model_folder(job.work, chunk))
            behind.wait()
            growth.cameras = Cameras.concat([growth.cameras, cameras])
            growth.files.append(made.video)
            moved = _place(job, growth, made.keyframes, chunk)
            _lift(job, growth, made, chunk)
            behind.start(partial(_finish_chunk, job, growth, made.keyframes, moved, chunk))


def _lift(job: Job, growth: Growth, made: Generated, chunk: int) -> None:
    """Splats of a chunk, written before anything else is done."""
    splats = job.timed(
        "lift",
        lambda: lift_new(
            growth, len(made.keyframes), window=made.window, lifter=job.opening.lifter
        ),
    )
    done = chunk - job.first_revision
    job.report("lift", done, job.chunks, "chunks", CHUNK_FRAMES * done)
    write_splats(growth, splats, job.publisher, chunk)


def _finish_chunk(
    job: Job, growth: Growth, frames: list[Frame], moved: float, chunk: int
) -> None:
    """Surface, revision and checkpoint of a chunk whose splats are written."""
    job.timed("fuse", lambda: fuse_new(growth, len(frames), job.recipe, moved))
    surface = job.timed("mesh", lambda: build_surface(growth, job.recipe))
    done = chunk - job.first_revision
    job.report("mesh", done, job.chunks, "chunks", CHUNK_FRAMES * done)
    write_surface(growth, *surface, job.publisher, chunk)
    growth.revision = chunk
    growth.refined = False
    last = done == job.chunks
    _publish(job, growth, complete=last and not job.request.output.refine_steps)
    save_checkpoint(job.work, growth, frames)


def _refine(job: Job, growth: Growth) -> None:
    """Fit the splats of the whole world to its keyframes, and publish them in place of the old."""

    def on_step(done: int, total: int) -> None:
        job.emit(Progress("refine", done, total, "steps"))

    job.timed(
        "refine",
        lambda: refine_files(
            growth, job.publisher, steps=job.request.output.refine_steps,
            seed=job.request.seed, on_step=on_step, cancelled=job.cancelled,
        ),
    )  # fmt: skip
    growth.refined = True
    _publish(job, growth, complete=True)
    save_checkpoint(job.work, growth, [])


def _place(job: Job, growth: Growth, frames: list[Frame], chunk: int) -> float:
    """Make all keyframes agree and tell what it took; how far older surfaces moved [m]."""
    placed = job.timed(
        "align",
        lambda: place_frames(growth, frames, job.recipe, chunk, lifter=job.opening.lifter),
    )
    if placed is None:
        return 0.0
    found = placed.agreement
    text = f"keyframes agree within {found.pixels_after:.2f} px"
    if found.changed:
        text += (
            f" after alignment from {found.track} cameras; before it {found.pixels_before:.2f} px "
            f"and {100 * found.depth_before:.1f} % of depth"
        )
    job.emit(Log("info", f"{text} ({found.matches} matched patches)"))
    return placed.moved


def _publish(job: Job, growth: Growth, *, complete: bool = False) -> Manifest:
    """Publish the world so far as revision `growth.revision`."""
    scale = _scale(job, growth)
    files = {
        "cameras.npz": growth.cameras.to_npz(),
        "cameras.usda": cameras_layer_text(growth.cameras),
        "scale.json": (json.dumps(scale, indent=2, sort_keys=True) + "\n").encode(),
        "depth/keyframes.npz": keyframes_npz(growth.keyframes),
    }
    if complete:
        files |= exchange_files(growth, job.request.output.formats, job.publisher.world)
    return job.publisher.revision(
        _manifest(job, growth, scale, complete=complete), files, revision=growth.revision
    )


def _scale(job: Job, growth: Growth) -> dict[str, Any]:
    """The content of scale.json at this revision."""
    hint = job.request.scale
    height = None if hint is None else hint.camera_height_m
    return later_scale(job.opening.seed.scale, growth.keyframes, height)


def _manifest(job: Job, growth: Growth, scale: dict[str, Any], *, complete: bool) -> Manifest:
    seed, request = job.opening.seed, job.request
    made_up = MADE_UP_NOTICE if job.engine.needs == "photo" else ""
    return Manifest(
        world_id=request.hash() if job.parent is None else job.parent.world_id,
        request=request.to_json(),
        engine={"preset": job.engine.name, "weights": list(growth.weights)},
        scale=scale,
        chunks=growth.revision,
        frames=growth.cameras.n,
        files=tuple(growth.files),
        seeds=tuple(request.seed + k for k in range(growth.revision)),
        photo_sha256=None if request.photo is None else request.photo.sha256,
        depth_source=seed.depth_source,
        notices=notices_for(growth.weights, made_up),
        code_version=code_version(),
        parents=() if job.parent is None else (*job.parent.parents, request.hash()),
        complete=complete,
    )


def _finish(job: Job, growth: Growth) -> Manifest:
    file = job.publisher.world / "run.json"
    write_whole(file, run_record(job.times, time.monotonic() - job.started, growth))
    job.emit(Artifact(growth.revision, "run", "run.json", file))
    return Manifest.from_bytes((job.publisher.world / "manifest.json").read_bytes())


def _fill_cache(growth: Growth) -> FrameCache:
    cache = FrameCache()
    for frame in growth.generated:
        cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
    LOGGER.info("memory holds %d keyframes at revision %d", len(growth.generated), growth.revision)
    return cache


def code_version() -> str:
    """Version of the code that makes worlds; part of every manifest."""
    return metadata.version("worldloom")
