"""The end of a job: exchange files for other programs, and a record of the run."""

from __future__ import annotations

import json
import os
import platform
import resource
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from worldloom.generator.checkpoint import Growth
from worldloom.generator.layers.read import read_mesh_layer, read_placed_splats
from worldloom.generator.surface.vdb import write_vdb
from worldloom.scene.manifest import FileEntry, live_entries
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats
from worldloom.scene.spz import save_spz

VERSIONS_OF = ("worldloom", "numpy", "scipy", "numba", "usd-core", "torch")


def exchange_files(growth: Growth, formats: tuple[str, ...], world: Path) -> dict[str, bytes]:
    """`splats.ply`, `splats.spz`, `mesh.glb` and `grid.vdb`, as far as `formats` asks for them.

    Args:
        growth: The finished world.
        formats: Any of `ply`, `spz`, `glb` and `vdb`.
        world: Folder that holds its layers.

    Raises:
        EngineFailed: `vdb` is asked for and no usable OpenVDB module is installed.
        CorruptData: A layer of the world cannot be read.
    """
    out: dict[str, bytes] = {}
    scratch = world.parent / "scratch"
    if "ply" in formats or "spz" in formats:
        splats = Splats.concat([read_placed_splats(world, e) for e in _live(growth, "splats")])
        if "ply" in formats:
            splats.save_ply(scratch / "splats.ply")
            out["splats.ply"] = (scratch / "splats.ply").read_bytes()
        if "spz" in formats:
            save_spz(splats, scratch / "splats.spz")
            out["splats.spz"] = (scratch / "splats.spz").read_bytes()
    if "glb" in formats:
        parts = [read_mesh_layer(world / e.path) for e in _live(growth, "visual")]
        TriMesh.concat(parts).save_glb(scratch / "mesh.glb")
        out["mesh.glb"] = (scratch / "mesh.glb").read_bytes()
    if "vdb" in formats:
        write_vdb(growth.volume, scratch / "grid.vdb")
        out["grid.vdb"] = (scratch / "grid.vdb").read_bytes()
    return out


def run_record(times: dict[str, float], seconds: float, growth: Growth) -> bytes:
    """The content of `run.json`: how this run went; no hash covers it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {
        "schema": "worldloom.run/1",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "stages_s": {key: round(value, 2) for key, value in sorted(times.items())},
        "peak_memory_mb": round(peak, 1),
        "frames": growth.cameras.n,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS_OF},
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def _live(growth: Growth, kind: str) -> list[FileEntry]:
    return [entry for entry in live_entries(growth.files) if entry.kind == kind]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
