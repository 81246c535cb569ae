"""Make the pictures under docs/images: run the demo on a photo of our own, keep what it shows.

The photo is a render of the truth scene `room`, so that no third-party picture is committed.
Usage: .venv/bin/python tools/make_docs_images.py [FOLDER]   (FOLDER keeps the demo's output)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from worldloom.cli.main import main
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import photo_camera
from worldloom.scene.cameras import intrinsics

ROOT = Path(__file__).resolve().parent.parent
SCENE, SIZE, FOV_DEG = "room", (960, 640), 62.0
PICTURES = {
    "photo": "photo", "depth": "depth-of-the-photo", "collider": "collider",
    "splats": "new-view--0-6-m-beside-the-path", "map": "oracle-in-",
}  # fmt: skip


def take_photo(file: Path) -> float:
    """Render the photo and return the height of its camera [m]."""
    place = scene(SCENE)
    c2w = photo_camera(place, SIZE).c2w[0]
    view = render_view(place, c2w, intrinsics(FOV_DEG, *SIZE), SIZE)
    Image.fromarray((np.clip(view.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)).save(file)
    return float(c2w[2, 3])


def overview(folder: Path) -> None:
    """One strip of all pictures at the same height."""
    images = [Image.open(next(folder.glob(f"{name}.*"))).convert("RGB") for name in PICTURES]
    height = 300
    scaled = [im.resize((round(im.width * height / im.height), height)) for im in images]
    width = sum(image.width for image in scaled) + 8 * (len(scaled) - 1)
    strip = Image.new("RGB", (width, height), "white")
    x = 0
    for image in scaled:
        strip.paste(image, (x, 0))
        x += image.width + 8
    strip.save(folder / "overview.jpg", quality=85)


def run(out: Path) -> None:
    """Run the demo in `out` and copy its pictures."""
    photo = out / "room.png"
    out.mkdir(parents=True, exist_ok=True)
    height = take_photo(photo)
    focal = 0.5 * SIZE[0] / np.tan(np.radians(FOV_DEG) / 2)
    known = f"{focal},{focal},{SIZE[0] / 2},{SIZE[1] / 2},{SIZE[0]},{SIZE[1]}"
    arguments = ["demo", str(photo), "--out", str(out / "demo"), "--offline"]
    code = main([*arguments, "--camera-height", str(height), "--intrinsics", known])
    if code:
        sys.exit(code)
    target = ROOT / "docs" / "images"
    target.mkdir(parents=True, exist_ok=True)
    for name, part in PICTURES.items():
        found = next(f for f in sorted((out / "demo" / "pictures").iterdir()) if part in f.name)
        shutil.copyfile(found, target / f"{name}{found.suffix}")
    overview(target)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder))
