"""Draws the extension's icon and preview picture: splats that become a floor with a path on it.

Run it from anywhere; it writes exts/worldloom.studio/data/{icon,preview}.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DATA = Path(__file__).resolve().parents[1] / "exts" / "worldloom.studio" / "data"
SCALE = 4  # Drawn larger and shrunk, which smooths every edge.
NIGHT, FLOOR, PATH, ROBOT = (24, 28, 36), (70, 84, 104), (118, 185, 0), (245, 245, 245)
WARM, COLD = np.array([242.0, 150.0, 70.0]), np.array([90.0, 160.0, 235.0])


def draw(width: int, height: int, horizon: float, seed: int) -> Image.Image:
    """The motif: a grid to the horizon, splats above it, a winding path and a robot."""
    w, h = width * SCALE, height * SCALE
    image = Image.new("RGB", (w, h), NIGHT)
    pen = ImageDraw.Draw(image, "RGBA")
    line = horizon * h
    for x in np.linspace(-3.2, 3.2, 17):
        pen.line([(w * (0.5 + 0.16 * x * 0.5), line), (w * (0.5 + x), h)], FLOOR, SCALE)
    for depth in 1 / np.linspace(1, 7, 9):
        pen.line([(0, line + (h - line) * depth), (w, line + (h - line) * depth)], FLOOR, SCALE)
    _splats(pen, w, line, seed)
    t = np.linspace(0, 1, 60)
    x = w * (0.5 + 0.22 * np.sin(3.4 * t + 0.3) * (1 - 0.75 * t))
    y = h - (h - line) * (1 - (1 - t) ** 1.8) * 0.96 - 0.03 * h
    pen.line(list(zip(x, y, strict=True)), PATH, max(2, int(0.018 * h)), joint="curve")
    radius = 0.055 * h
    pen.ellipse([x[8] - radius, y[8] - radius, x[8] + radius, y[8] + radius], ROBOT, NIGHT, SCALE)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _splats(pen: ImageDraw.ImageDraw, w: int, line: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for place, height, size in zip(
        rng.random(260), rng.random(260) ** 0.7, rng.uniform(0.012, 0.05, 260), strict=True
    ):
        # Two walls that open towards the viewer.
        side = abs(place - 0.5) * 2
        y = line - line * height * (0.25 + 0.7 * side)
        color = (WARM * (1 - place) + COLD * place) * rng.uniform(0.6, 1.0)
        a, b = size * w * (0.4 + side), size * w * 0.55 * (0.4 + side)
        box = [place * w - a, y - b, place * w + a, y + b]
        pen.ellipse(box, (*color.astype(int).tolist(), 110))


def main() -> None:
    """Write both pictures."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, size, horizon in (("icon", (256, 256), 0.52), ("preview", (640, 360), 0.5)):
        picture = draw(*size, horizon, seed=3).quantize(128, dither=Image.Dither.NONE)
        picture.save(DATA / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
