"""The levels of a volume -> OpenVDB grids: export to `.vdb`, and its mesher as a second opinion.

OpenVDB is optional and may be called `openvdb` (new builds) or `pyopenvdb` (Debian, built against
numpy 1). The latter crashes the process under numpy 2, so a module is tried in a child first.
Grids of a file: `sdf_<l>` (distance in metres, level set), `weight_<l>` (votes behind it).
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.keys import BLOCK
from worldloom.generator.surface.levels import LevelVolume
from worldloom.scene.errors import EngineFailed
from worldloom.scene.mesh import TriMesh
from worldloom.scene.worldfolder import storage_errors

NAMES = ("openvdb", "pyopenvdb")
PROBE_S = 60.0  # Longest that the trial in a child may take.
PROBE = (
    "import numpy, {name} as vdb; g = vdb.FloatGrid(1.0); "
    "g.copyFromArray(numpy.zeros((8, 8, 8), numpy.float32)); print(g.activeVoxelCount())"
)
REMEDY = (
    "Install OpenVDB's Python module (`openvdb`, or Debian's python3-openvdb together with numpy "
    "below 2), or leave the format vdb out"
)


def write_vdb(volume: LevelVolume, file: Path) -> None:
    """Write all levels that hold blocks to one `.vdb` file.

    Raises:
        EngineFailed: No usable OpenVDB module is installed.
        StorageFull: No space is left.
    """
    vdb = openvdb_module()
    grids = []
    for level in np.unique(volume.coords[: volume.blocks, 0]).tolist():
        grids += [_distance_grid(vdb, volume, level), _weight_grid(vdb, volume, level)]
    part = file.with_suffix(".part.vdb")
    with storage_errors(part):
        vdb.write(str(part), grids=grids)
        part.replace(file)


def mesh_by_openvdb(volume: LevelVolume, *, level: int = 0) -> TriMesh:
    """The zero level of one level by OpenVDB's volumeToMesh: a cross-check, not a product.

    OpenVDB takes unmeasured space for free space and closes the back of every wall; what lies
    further than two voxels from a measured crossing is left out here. Its winding is turned round.

    Raises:
        EngineFailed: No usable OpenVDB module is installed.
    """
    vdb = openvdb_module()
    points, quads = _distance_grid(vdb, volume, level).convertToQuads(0.0)
    faces = np.concatenate([quads[:, [2, 1, 0]], quads[:, [3, 2, 0]]])
    mesh = TriMesh(points.astype(np.float32), faces.astype(np.int32))
    return mesh.select_faces(_measured_around(volume, level, mesh.corners().mean(1)))


@cache
def openvdb_module() -> ModuleType:
    """The OpenVDB module of this environment.

    Raises:
        EngineFailed: There is none, or it does not work with this numpy.
    """
    for name in NAMES:
        if importlib.util.find_spec(name) is None:
            continue
        _try_in_a_child(name)
        return importlib.import_module(name)
    raise EngineFailed(f"no OpenVDB module is installed ({' or '.join(NAMES)}). {REMEDY}")


def _try_in_a_child(name: str) -> None:
    """Raise EngineFailed unless the module copies an array in a process of its own."""
    if name == "pyopenvdb" and int(np.__version__.split(".")[0]) >= 2:
        raise EngineFailed(
            f"pyopenvdb is built against numpy 1 and crashes with numpy {np.__version__}. {REMEDY}"
        )
    command = [sys.executable, "-c", PROBE.format(name=name)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_S, check=False, text=True)
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{name} did not answer within {PROBE_S:.0f} s. {REMEDY}") from error
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise EngineFailed(f"{name} does not work here ({why[0]}). {REMEDY}")


def _transform(vdb: ModuleType, volume: LevelVolume, level: int) -> object:
    """Index space of a level -> world metres."""
    size, origin = volume.plan.voxel_at(level), volume.origin
    return vdb.createLinearTransform(
        matrix=[[size, 0, 0, 0], [0, size, 0, 0], [0, 0, size, 0], [origin, origin, origin, 1]]
    )


def _level_blocks(volume: LevelVolume, level: int) -> NDArray[np.int64]:
    """Numbers of the blocks of a level, by place."""
    mine = np.flatnonzero(volume.coords[: volume.blocks, 0] == level)
    return mine[np.lexsort(volume.coords[mine].T[::-1])]


def _distance_grid(vdb: ModuleType, volume: LevelVolume, level: int) -> object:
    truncation = volume.plan.truncation_at(level)
    grid = vdb.FloatGrid(truncation)
    grid.name = f"sdf_{level}"
    grid.gridClass = vdb.GridClass.LEVEL_SET
    grid.transform = _transform(vdb, volume, level)
    weight = volume.measured()
    for b in _level_blocks(volume, level):
        # What is not measured is background: outside, inactive.
        values = np.where(weight[b] > 0, volume.tsdf[b], 1.0).astype(np.float32) * truncation
        _copy(grid, values, volume.coords[b, 1:])
    return grid


def _weight_grid(vdb: ModuleType, volume: LevelVolume, level: int) -> object:
    grid = vdb.FloatGrid(0.0)
    grid.name = f"weight_{level}"
    grid.transform = _transform(vdb, volume, level)
    for b in _level_blocks(volume, level):
        _copy(grid, volume.weight[b], volume.coords[b, 1:])
    return grid


def _copy(grid: object, values: NDArray[np.float32], block: NDArray[np.int32]) -> None:
    """Put the 512 values of a block into a grid."""
    array = np.ascontiguousarray(values.reshape(BLOCK, BLOCK, BLOCK), np.float32)
    grid.copyFromArray(array, ijk=tuple(int(x) * BLOCK for x in block), tolerance=0)  # type: ignore[attr-defined]


def _measured_around(
    volume: LevelVolume, level: int, points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which points [n 3] have measured samples of both signs within a voxel."""
    blocks = _level_blocks(volume, level)
    weight = volume.measured()[blocks]
    ijk = np.stack(np.unravel_index(np.arange(BLOCK**3), (BLOCK,) * 3), -1)
    where = volume.coords[blocks, None, 1:] * BLOCK + ijk
    from scipy.spatial import cKDTree

    at = (points - volume.origin) / volume.plan.voxel_at(level)
    out = np.ones(len(points), bool)
    for inside in (True, False):
        chosen = (weight > 0) & ((volume.tsdf[blocks] < 0) == inside)
        if not chosen.any():
            return np.zeros(len(points), bool)
        away, _ = cKDTree(where[chosen]).query(at, distance_upper_bound=np.sqrt(3))
        out &= np.isfinite(away)
    return out
