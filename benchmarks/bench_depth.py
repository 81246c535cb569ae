"""Depth sources against the best-fit vertical ramp, on the sample photo and on truth renders.

Prints R2 and AbsRel of the affine-aligned disparity for the ramp, the built-in prior, and
TCMonoDepth-small where its weights are present: on the motorcycle photo, its mirror image and three
crops, and on ten truth renders of known pitch and camera height.
Run: .venv/bin/python benchmarks/bench_depth.py [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloom.generator.depth.compare import affine_error, ramp_error
from worldloom.generator.depth.models import choose_model
from worldloom.generator.depth.motorcycle import motorcycle
from worldloom.generator.seed import make_seed
from worldloom.generator.truth.photos import ten_photos
from worldloom.scene.request import Intrinsics

CROPS = {"left": (0.0, 0.0, 0.7, 1.0), "right": (0.3, 0.0, 1.0, 1.0), "low": (0.0, 0.25, 1.0, 1.0)}
LONG_SIDE = 640  # Longer side at which the prior works here [px].


@dataclass(frozen=True)
class Case:
    """A picture with its true depth."""

    name: str
    rgb: NDArray[np.uint8]
    depth: NDArray[np.floating]
    known: Intrinsics


def cases() -> list[Case]:
    """All pictures."""
    sample = motorcycle()
    rgb, k = np.asarray(Image.open(sample.photo).convert("RGB")), sample.intrinsics
    found = [
        Case("motorcycle", rgb, sample.depth, k),
        Case("mirrored", rgb[:, ::-1], sample.depth[:, ::-1],
             Intrinsics(k.fx, k.fy, k.width - k.cx, k.cy, k.width, k.height)),
    ]  # fmt: skip
    for name, (left, top, right, bottom) in CROPS.items():
        x0, x1 = round(left * k.width), round(right * k.width)
        y0, y1 = round(top * k.height), round(bottom * k.height)
        known = Intrinsics(k.fx, k.fy, k.cx - x0, k.cy - y0, x1 - x0, y1 - y0)
        found.append(
            Case(f"crop {name}", rgb[y0:y1, x0:x1], sample.depth[y0:y1, x0:x1], known)
        )
    for number, photo in enumerate(ten_photos()):
        picture = (np.clip(photo.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        height, width = photo.depth.shape
        known = Intrinsics(
            photo.K[0, 0], photo.K[1, 1], photo.K[0, 2], photo.K[1, 2], width, height
        )
        found.append(Case(f"truth {number}", picture, photo.depth, known))
    return found


def prior_inverse(case: Case, folder: Path) -> NDArray[np.floating]:
    """Inverse depth of the built-in prior at the size of the truth."""
    file = folder / "case.png"
    Image.fromarray(np.ascontiguousarray(case.rgb)).save(file)
    seed = make_seed(
        file, long_side=LONG_SIDE, intrinsics=case.known, weights_dir=folder / "no-weights"
    )
    inverse = np.where(seed.depth > 0, 1 / np.maximum(seed.depth, 1e-6), 0)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(case.depth.shape, inverse.shape, strict=True)
    )
    return inverse[rows][:, columns]


def measure() -> list[dict[str, object]]:
    """One row a picture."""
    model = choose_model()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            scores = {
                "ramp": ramp_error(case.depth),
                "prior": affine_error(prior_inverse(case, Path(folder)), case.depth),
            }
            if model is not None:
                inverse = model.inverse_depth(case.rgb.astype(np.float32) / 255)
                scores["network"] = affine_error(inverse, case.depth)
            rows.append({"picture": case.name, **scores})
            print(_line(rows[-1]), flush=True)
    return rows


def _line(row: dict[str, object]) -> str:
    parts = [f"{row['picture']!s:<12}"]
    for name in ("ramp", "prior", "network"):
        if name in row:
            parts.append(f"{name} R2 {row[name]['r2']:6.3f} AbsRel {row[name]['abs_rel']:.3f}")
    prior, ramp = row["prior"], row["ramp"]
    won = prior["r2"] > ramp["r2"] and prior["abs_rel"] < ramp["abs_rel"]
    return "   ".join([*parts, "prior wins" if won else "ramp wins somewhere"])


def main() -> None:
    """Measure and print; keep the numbers where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    rows = measure()
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
