"""Command-line options -> a WorldRequest and the files to upload with it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.inputs import check_photo, input_ref
from worldloom.scene.limits import MIB
from worldloom.scene.path import CameraPath
from worldloom.scene.path_files import load_captions, load_path
from worldloom.scene.request import (
    FORMATS,
    QUALITIES,
    Intrinsics,
    OutputOptions,
    ScaleHint,
    WorldRequest,
)

PROMPT_FILE_BYTES = MIB
"""Largest captions file that is read."""
DISTANCE = re.compile(r"([\d.]+),([\d.]+)[:;]([\d.]+),([\d.]+)=([\d.]+)")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what to make."""
    add = parser.add_argument
    add("--prompt", metavar="TEXT|FILE", help="a prompt, or a captions.json keyed by frame")
    add("--depth", type=Path, metavar="FILE", help="metric depth: npy, npz, 16-bit PNG in mm, EXR")
    add("--camera-height", type=float, metavar="M", help="height of the camera above the floor")
    add("--distance", metavar="U,V:U,V=M", help="two points of the photo [px] and their distance")
    add("--intrinsics", metavar="FX,FY,CX,CY,W,H", help="known camera matrix of the photo [px]")
    add("--frames", type=int, metavar="N", help="frames to make; rounded up to 1 + 80 n")
    add("--quality", choices=QUALITIES, default="standard", help="draft, standard or high")
    add("--seed", type=int, default=1, metavar="N", help="seed of everything random")
    add("--triangles", type=int, default=150_000, metavar="N", help="collider budget")
    add("--refine", type=int, default=0, metavar="N",
        help="steps of photometric refinement of the splats at the end, about 300; default none")
    add("--formats", default="", metavar="LIST", help=f"exchange files: {','.join(FORMATS)}")


def build_request(
    source: str, args: argparse.Namespace, *, path: CameraPath | None = None
) -> tuple[WorldRequest, dict[str, Path]]:
    """The request that the options describe, and its uploads by role.

    Args:
        source: A photo, a truth scene's name, or a packed capture (see `capture.packed_capture`).
        args: The options.
        path: The camera path, where it is not one of the options.

    Raises:
        InvalidRequest: An option cannot be read.
        InvalidPhoto: There is no such photo, or it is empty.
        InvalidCameraPath: The path cannot be read.
    """
    files: dict[str, Path] = {}
    engine, scene = args.engine, None
    if engine == "truth":
        scene = source
    elif engine == "capture":
        files["capture"] = Path(source)
    else:
        files["photo"] = check_photo(Path(source))
    if args.depth is not None:
        files["depth"] = _existing(args.depth, "depth map")
    if path is None:
        path = _scene_path(source, args) if scene else _path(args)
    refs = {role: input_ref(role, file) for role, file in files.items()}
    request = WorldRequest(
        engine=engine,
        path=path,
        photo=refs.get("photo"),
        depth=refs.get("depth"),
        capture=refs.get("capture"),
        scene=scene,
        prompts=_prompts(args.prompt),
        seed=args.seed,
        quality=args.quality,
        intrinsics=_intrinsics(args.intrinsics),
        scale=_scale(args),
        output=OutputOptions(
            collider_triangles=args.triangles,
            refine_steps=args.refine,
            formats=tuple(part for part in args.formats.split(",") if part),
        ),
    )
    return request, files


def _existing(file: Path, what: str) -> Path:
    if not file.is_file():
        raise InvalidRequest(f"there is no {what} at {file}", field="depth")
    return file


def _path(args: argparse.Namespace) -> CameraPath:
    quirks = getattr(args, "reference_quirks", False)
    return load_path(args.path, frames=args.frames, reference_quirks=quirks)


def _scene_path(scene: str, args: argparse.Namespace) -> CameraPath:
    """A truth scene's own walkthrough unless another path was asked for."""
    if args.path != "walkthrough":
        return _path(args)
    from worldloom.generator.truth.opening import walkthrough_path

    return walkthrough_path(scene, frames=args.frames)


def _prompts(text: str | None) -> dict[int, str]:
    if not text:
        return {}
    file = Path(text)
    if len(text) < 512 and file.suffix in (".json", ".txt"):
        if not file.is_file():
            raise InvalidRequest(f"there is no captions file at {file}", field="prompts")
        if file.stat().st_size > PROMPT_FILE_BYTES:
            raise InvalidRequest(
                f"{file} is larger than 1 MiB; captions are short", field="prompts"
            )
        text = file.read_text("utf-8")
    return load_captions(text)


def _scale(args: argparse.Namespace) -> ScaleHint | None:
    if args.camera_height is not None:
        return ScaleHint(camera_height_m=args.camera_height)
    if args.distance is None:
        return None
    match = DISTANCE.fullmatch(args.distance)
    if match is None:
        raise InvalidRequest(
            f"cannot read --distance {args.distance!r}; write 100,200:300,200=1.5", field="scale"
        )
    u0, v0, u1, v1, metres = (float(x) for x in match.groups())
    return ScaleHint(pixels=((u0, v0), (u1, v1)), distance_m=metres)


def _intrinsics(text: str | None) -> Intrinsics | None:
    if text:
        try:
            fx, fy, cx, cy, width, height = (float(x) for x in text.split(","))
        except ValueError as error:
            raise InvalidRequest(
                f"cannot read --intrinsics {text!r}; write FX,FY,CX,CY,W,H in pixels",
                field="intrinsics",
            ) from error
        return Intrinsics(fx, fy, cx, cy, int(width), int(height))
    return None
