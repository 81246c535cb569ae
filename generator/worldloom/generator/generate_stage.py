"""The frame model's chunk -> frames, a video file, and progress for whoever watches."""

from __future__ import annotations

import time
from dataclasses import dataclass

from worldloom.generator.job import Job
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.records import preview_jpeg
from worldloom.generator.video.frame import Frame
from worldloom.generator.videofile import VideoWriter
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.events import Preview, Progress
from worldloom.scene.manifest import FileEntry

PREVIEW_EVERY = 8  # Frames between two small pictures for the watcher.


@dataclass(frozen=True)
class Generated:
    """What one chunk has brought."""

    keyframes: list[Frame]
    window: list[Frame]
    """Frames spread evenly over the chunk, for the engine's splat lifter; none without one."""
    video: FileEntry
    """The chunk's video file."""


def generate_chunk(
    job: Job, cache: FrameCache, cameras: Cameras, chunk: int, first: int
) -> Generated:
    """Let the frame model make one chunk, and write its video.

    Args:
        job: The run.
        cache: The memory.
        cameras: Cameras of the chunk's frames.
        chunk: Number of the chunk.
        first: Number of its first frame within this run.

    Raises:
        JobCancelled: The user wants no more; nothing of the chunk is kept.
        EngineFailed: The model gave another number of frames.
        StorageFull: No space is left for the video.
    """
    width, height = (int(x) for x in cameras.size[0])
    count, sampling = 0, 0.0
    lifter = job.opening.lifter
    stride = 0 if lifter is None else -(-cameras.n // lifter.views)
    window: list[Frame] = []

    def on_frame(frame: Frame) -> None:
        nonlocal count
        if job.cancelled():
            raise JobCancelled(f"cancelled at frame {frame.frame_id}; finished chunks are kept")
        writer.add(frame.rgb)
        if count % PREVIEW_EVERY == 0:
            job.emit(Preview(frame.frame_id, preview_jpeg(frame.rgb)))
        count += 1
        if stride and count % stride == 0:
            window.append(frame)
        job.report("generate", first - 1 + count, job.cameras.n - 1, "frames", first - 1 + count)

    def on_step(done: int, total: int) -> None:
        nonlocal sampling
        sampling = time.monotonic() if done == 1 else sampling
        spent = time.monotonic() - sampling
        # The first evaluation also warms up, so it tells nothing of the rate.
        eta = round(spent * (total - done) / (done - 1), 1) if done > 1 else None
        job.emit(Progress("sample", done, total, "evaluations", eta_s=eta))

    file = job.publisher.scratch / "frames.mp4"
    writer = VideoWriter(file, width, height)
    try:
        frames = job.timed(
            "generate",
            lambda: job.opening.model.chunk(
                cameras, cache, on_frame=on_frame, on_step=on_step, cancelled=job.cancelled
            ),
        )
        writer.close()
    except BaseException:
        writer.abort()
        raise
    if count != cameras.n:
        raise EngineFailed(f"the frame model gave {count} frames of {cameras.n}")
    video = job.publisher.immutable(
        "video", file.replace, suffix=".mp4", chunk=chunk, tile=0, count=count
    )
    return Generated(frames, window, video)
