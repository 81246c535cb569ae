"""Levels become OpenVDB grids where a module is installed, and a clear error where none is."""

import sys
import types

import numpy as np
import pytest

from worldloom.generator.surface import vdb
from worldloom.generator.surface.extract import extract_surface
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import LevelPlan
from worldloom.scene.cameras import intrinsics
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import look_at

K = intrinsics(65.0, 208, 140)


@pytest.fixture(autouse=True)
def _fresh_probe():
    vdb.openvdb_module.cache_clear()
    yield
    vdb.openvdb_module.cache_clear()


@pytest.fixture(scope="module")
def volume():
    """Two walls at different distances, so that two levels hold blocks."""
    made = LevelVolume(LevelPlan(0.03, 4, near=1.0))
    grey = np.full((140, 208, 3), 0.5, np.float32)
    for eye, distance in (([-1.5, 0, 0], 1.5), ([-3.0, 0.1, 0], 3.0)):
        depth = np.full((140, 208), distance, np.float32)
        made.integrate(depth, grey, look_at(eye, [0, eye[1], 0]), K)
    return made


def openvdb():
    try:
        return vdb.openvdb_module()
    except EngineFailed as error:
        pytest.skip(str(error))


def test_levels_are_written_and_read_back_in_metres(volume, tmp_path):
    module = openvdb()
    vdb.write_vdb(volume, tmp_path / "grid.vdb")
    grids = {grid.name: grid for grid in module.readAllGridMetadata(str(tmp_path / "grid.vdb"))}
    assert {"sdf_0", "sdf_1", "weight_0", "weight_1"} <= set(grids)
    grid = module.read(str(tmp_path / "grid.vdb"), "sdf_0")
    block = volume.coords[: volume.blocks][volume.coords[: volume.blocks, 0] == 0][0, 1:]
    at = volume.origin + block * 8 * volume.plan.voxel
    assert np.allclose(grid.transform.indexToWorld(tuple(int(8 * b) for b in block)), at)
    assert not list(tmp_path.glob("*.part*"))


def test_the_mesher_of_openvdb_agrees_with_ours(volume):
    openvdb()
    theirs = vdb.mesh_by_openvdb(volume, level=0)
    ours = extract_surface(volume)
    fine = ours.mesh.select_faces(ours.level == 0)
    assert theirs.areas().sum() == pytest.approx(fine.areas().sum(), rel=0.1)
    assert np.median(np.abs(theirs.vertices[:, 0])) < 1e-3
    assert (theirs.normals()[:, 0] < -0.9).mean() > 0.9


def test_without_a_module_the_error_says_what_to_install(volume, tmp_path, monkeypatch):
    monkeypatch.setattr(vdb, "NAMES", ("no_such_openvdb",))
    with pytest.raises(EngineFailed, match=r"no OpenVDB module.*no_such_openvdb.*leave the format"):
        vdb.write_vdb(volume, tmp_path / "grid.vdb")


def test_pyopenvdb_is_refused_under_numpy_2_before_it_can_crash(monkeypatch):
    module = types.ModuleType("pyopenvdb")
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pyopenvdb", module)
    monkeypatch.setattr(vdb, "NAMES", ("pyopenvdb",))
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(EngineFailed, match=r"built against numpy 1 and crashes with numpy 2\.4\.6"):
        vdb.openvdb_module()


def test_a_module_that_crashes_its_process_does_not_take_ours_along(tmp_path, monkeypatch):
    (tmp_path / "crashvdb.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(vdb, "NAMES", ("crashvdb",))
    with pytest.raises(EngineFailed, match=r"crashvdb does not work here \(exit status -11\)"):
        vdb.openvdb_module()
