"""`worldloom export`: exchange files of a finished world, for programs that read no USD."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldloom.cli import console
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.path_files import export_captions, export_lyra
from worldloom.scene.request import WorldRequest
from worldloom.scene.splats import Splats
from worldloom.scene.spz import save_spz
from worldloom.scene.worldfolder import make_folder, open_world

FORMATS = ("ply", "spz", "glb", "collider-glb", "lyra")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom export`."""
    parser.add_argument("world", type=Path, help="world folder")
    parser.add_argument("--to", default="ply,glb", metavar="LIST", help=", ".join(FORMATS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to; default the world")


def run(args: argparse.Namespace) -> int:
    """Write the chosen files and list them."""
    wanted = [part for part in args.to.split(",") if part]
    for name in wanted:
        if name not in FORMATS:
            raise InvalidRequest(f"unknown export format {name!r}; use {', '.join(FORMATS)}")
    out = make_folder(args.out or args.world)
    writers = {
        "ply": _ply, "spz": _spz, "glb": _glb, "collider-glb": _collider, "lyra": _lyra,
    }  # fmt: skip
    written = [file for name in wanted for file in writers[name](args.world, out)]
    console.table(["file", "bytes"], [[str(file), file.stat().st_size] for file in written])
    return 0


def _splats(world: Path) -> Splats:
    from worldloom.generator.layers.read import read_world_splats

    return read_world_splats(world, open_world(world))


def _ply(world: Path, out: Path) -> list[Path]:
    file = out / "splats.ply"
    _splats(world).save_ply(file)
    return [file]


def _spz(world: Path, out: Path) -> list[Path]:
    file = out / "splats.spz"
    save_spz(_splats(world), file)
    return [file]


def _glb(world: Path, out: Path, kind: str = "visual", name: str = "mesh.glb") -> list[Path]:
    from worldloom.generator.layers.read import read_mesh_layer

    entries = open_world(world).live(kind)
    file = out / name
    TriMesh.concat([read_mesh_layer(world / e.path) for e in entries]).save_glb(file)
    return [file]


def _collider(world: Path, out: Path) -> list[Path]:
    return _glb(world, out, "collision", "collider.glb")


def _lyra(world: Path, out: Path) -> list[Path]:
    """Lyra's trajectory.npz and captions.json of the world's cameras and prompts."""
    request = WorldRequest.from_json(open_world(world).request)
    trajectory, captions = out / "trajectory.npz", out / "captions.json"
    trajectory.write_bytes(export_lyra(Cameras.load(world / "cameras.npz")))
    captions.write_text(export_captions(request.prompts or {0: ""}), "utf-8")
    return [trajectory, captions]
