"""Frames of a video and renders of its splats -> one picture: video | render | |difference|."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.pixels import Picture, as_pair
from worldloom.generator.evaluate.protocol import Evaluation
from worldloom.generator.evaluate.similarity import psnr, ssim
from worldloom.generator.evaluate.world import spread

ROWS = 6  # Frames of a sheet: more are too small to see.
GAP, HEADER = 6, 18  # Pixels between pictures, and of a line of text.
DIFFERENCE_GAIN = 4.0
"""Differences are shown this many times brighter; a quarter of the range is white."""
PAPER, INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(evaluation: Evaluation, *, rows: int = ROWS) -> bytes:
    """The sheet as PNG bytes, for up to `rows` held-out frames."""
    from PIL import Image, ImageDraw

    numbers = spread(list(evaluation.held_out), rows)
    width, height = evaluation.world.size
    canvas = Image.new(
        "RGB",
        (3 * width + 4 * GAP, (len(numbers) + 1) * (HEADER + GAP) + len(numbers) * height),
        PAPER,
    )
    pen = ImageDraw.Draw(canvas)
    titles = ("video", "splats", f"|difference| x {DIFFERENCE_GAIN:g}")
    for column, title in enumerate(titles):
        pen.text((GAP + column * (width + GAP), GAP), title, fill=INK)
    top = HEADER + GAP
    for number in numbers:
        video, render = evaluation.video[number], evaluation.renders[number].rgb
        for column, picture in enumerate(_columns(video, render)):
            at = (GAP + column * (width + GAP), top + HEADER)
            canvas.paste(Image.fromarray(picture), at)
        words = f"frame {number}: {psnr(render, video):.2f} dB, SSIM {ssim(render, video):.3f}"
        pen.text((GAP, top + 3), words, fill=INK)
        top += HEADER + height + GAP
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _columns(video: Picture, render: Picture) -> list[NDArray[np.uint8]]:
    a, b = as_pair(video, render, ("the video", "the render"))
    parts = (a, b, np.minimum(DIFFERENCE_GAIN * np.abs(a - b), 1.0))
    return [(255 * part + 0.5).astype(np.uint8) for part in parts]
