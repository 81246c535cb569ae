"""Frames -> one H.264 file of a chunk, written as they come; and the frames of a file again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData, EngineFailed

VIDEO_FPS = 16  # Frame rate of Lyra's own videos (spec generation 1.6).
VIDEO_CRF = 20  # x264 quality: visually close to the frames at about 1 MB per 80 frames.


class VideoWriter:
    """Pipes RGB frames into ffmpeg; one thread and no metadata, so equal frames = equal bytes."""

    def __init__(self, file: Path, width: int, height: int) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        self.file = file
        self._size = (width, height)
        # yuv420p needs even sides: the last row or column is cropped away when one is odd.
        crop = f"crop={width // 2 * 2}:{height // 2 * 2}:0:0"
        command = [
            get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "-s", f"{width}x{height}", "-r", str(VIDEO_FPS), "-i", "-", "-vf", crop,
            "-c:v", "libx264", "-preset", "veryfast", "-crf", str(VIDEO_CRF),
            "-pix_fmt", "yuv420p", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
            "-movflags", "+faststart", str(file),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def add(self, rgb: NDArray[np.float32]) -> None:
        """Append one frame [h w 3], sRGB 0..1.

        Raises:
            EngineFailed: ffmpeg stopped.
        """
        if rgb.shape[:2] != self._size[::-1]:
            raise EngineFailed(f"a frame is {rgb.shape[1]} x {rgb.shape[0]}, not {self._size}")
        data = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8).tobytes()
        try:
            self._process.stdin.write(data)
        except BrokenPipeError as error:
            raise EngineFailed(f"ffmpeg stopped: {self._errors()}") from error

    def close(self) -> Path:
        """Finish the file and return it.

        Raises:
            EngineFailed: ffmpeg reported an error.
        """
        self._process.stdin.close()
        errors = self._errors()
        if self._process.wait() != 0:
            raise EngineFailed(f"ffmpeg could not write {self.file.name}: {errors}")
        return self.file

    def abort(self) -> None:
        """Stop without a file, when the frames will not come to an end."""
        self._process.kill()
        self._process.wait()
        self.file.unlink(missing_ok=True)

    def _errors(self) -> str:
        return self._process.stderr.read().decode("utf-8", "replace").strip()[-500:]


def read_frames(file: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames [h w 3] of a video file in order, sRGB bytes.

    Raises:
        CorruptData: The file is missing or cannot be decoded.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    if not file.is_file():
        raise CorruptData(f"the video {file} is missing; fetch the world again")
    # Portable pixmaps carry their size, so nothing has to be read out of ffmpeg's messages: a
    # library that logs when this process forks would spoil those.
    command = [
        get_ffmpeg_exe(), "-v", "error", "-i", str(file),
        "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        pipe, count = cast(IO[bytes], child.stdout), 0
        try:
            while pipe.readline() == b"P6\n":
                width, height = (int(side) for side in pipe.readline().split())
                pipe.readline()
                data = pipe.read(3 * width * height)
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
                count += 1
        except ValueError as error:
            raise CorruptData(f"{file} cannot be decoded ({str(error)[:120]})") from error
        finally:
            child.kill()
    if count == 0:
        raise CorruptData(f"{file} cannot be decoded (no frame in it)")
