"""A world folder -> its problems: trust, form, geometry, and what the validators say.

Content hashes are not compared here: `worldloom check` does that for every file it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldloom.generator.layers import geometry_rules
from worldloom.generator.layers.cameras_layer import cameras_layer_text
from worldloom.generator.layers.read import read_mesh_layer, read_splat_layer
from worldloom.generator.layers.validators import nvidia_problems, usd_problems
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import CorruptData, InvalidCameraPath
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats
from worldloom.scene.trust import vet_layer_file
from worldloom.scene.worldfile import render_world_usda
from worldloom.scene.worldfolder import WORLD, check_files, open_world

LAYER_KINDS = ("splats", "points", "collision", "visual", "cameras_usd")
DEFAULT_TRIANGLES = 150_000  # Budget of a request that names none.
BUDGET_SLACK = 1.02  # Decimation stops at whole edges, a little before or after its target.


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a world."""

    rule: str
    """Our rule, or the validator that found it."""
    where: str
    """File or prim."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.rule}]"


def check_world(folder: Path, *, validators: bool = True) -> list[Problem]:
    """Everything that is wrong with the world in `folder`; empty when it is fit for use.

    Args:
        folder: A world folder, finished or at any revision.
        validators: Also run OpenUSD's validators, and NVIDIA's where they are installed.

    Raises:
        NotFound: The folder holds no world.
        CorruptData: The manifest cannot be read.
    """
    manifest = open_world(folder)
    found = [
        Problem("files", line.split(":")[0], line.split(": ", 1)[-1])
        for line in check_files(folder, manifest, hashes=False)
    ]
    # Layers that may not be opened, or are not there, would fail every rule below.
    if found:
        return found
    found = list(_trust(folder, manifest))
    if found:
        return found
    found += _root(folder, manifest)
    found += _geometry(folder, manifest)
    if validators:
        for rule, where, message in usd_problems(folder / WORLD) + nvidia_problems(folder / WORLD):
            found.append(Problem(rule, where, message))
    return found


def _trust(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    for kind in LAYER_KINDS:
        for entry in manifest.live(kind):
            try:
                lines = vet_layer_file(folder / entry.path)
            except CorruptData as error:
                lines = [str(error)]
            for line in lines:
                yield Problem("trust", entry.path, line)


def _root(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    try:
        wanted = render_world_usda(manifest)
    except CorruptData as error:
        yield Problem("root", WORLD, str(error))
        return
    file = folder / WORLD
    if not file.is_file():
        yield Problem("root", WORLD, "missing; it is rendered from the manifest")
    elif file.read_bytes() != wanted:
        yield Problem("root", WORLD, "is not what the manifest renders to; it was edited or is old")


def _geometry(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    splats, meshes = [], []
    for entry in manifest.live("splats"):
        read = _read(folder, entry)
        if isinstance(read, Problem):
            yield read
            continue
        splats.append(read)
        yield from _named(entry.path, geometry_rules.splat_findings(read, entry.count))
    for entry in manifest.live("collision"):
        read = _read(folder, entry)
        if isinstance(read, Problem):
            yield read
            continue
        findings = list(geometry_rules.tile_findings(read, entry.count))
        yield from _named(entry.path, iter(findings))
        # A broken tile would break the rules over the whole collider.
        if not {rule for rule, _ in findings} & {"finite", "topology"}:
            meshes.append(read)
    yield from _whole(folder, manifest, Splats.concat(splats), TriMesh.concat(meshes))


def _whole(folder: Path, manifest: Manifest, splats: Splats, mesh: TriMesh) -> Iterator[Problem]:
    """Rules over the world as a whole."""
    output = manifest.request.get("output") or {}
    budget = output.get("collider_triangles") or DEFAULT_TRIANGLES
    if len(mesh.faces) > budget * BUDGET_SLACK:
        message = f"{len(mesh.faces)} triangles; the request allows {budget}"
        yield Problem("triangle budget", "collision", message)
    if not len(mesh.faces):
        yield Problem("surface", "collision", "there is no collider; nothing can stand here")
        return
    yield from _named("collision", geometry_rules.registration_findings(splats, mesh))
    if not manifest.live("cameras"):
        return
    try:
        cameras = Cameras.load(folder / "cameras.npz")
    except InvalidCameraPath as error:
        yield Problem("cameras", "cameras.npz", str(error))
        return
    yield from _named("collision", geometry_rules.winding_findings(mesh, cameras))
    layer = folder / "cameras.usda"
    if layer.is_file() and layer.read_bytes() != cameras_layer_text(cameras):
        yield Problem("cameras", "cameras.usda", "does not hold the cameras of cameras.npz")


def _read(folder: Path, entry: FileEntry) -> Splats | TriMesh | Problem:
    reader = read_splat_layer if entry.kind == "splats" else read_mesh_layer
    try:
        return reader(folder / entry.path)
    except CorruptData as error:
        return Problem("form", entry.path, str(error))


def _named(where: str, findings: Iterator[tuple[str, str]]) -> Iterator[Problem]:
    for rule, message in findings:
        yield Problem(rule, where, message)
