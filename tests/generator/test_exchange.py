"""A finished world becomes the exchange files that were asked for."""

from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from worldloom.cli import export
from worldloom.generator.finish import exchange_files
from worldloom.generator.layers.splat_layer import write_splat_layer
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import matrix_from_quat_wxyz, rigid
from worldloom.scene.manifest import FileEntry
from worldloom.scene.splats import Splats
from worldloom.scene.spz import load_spz

TURN = rigid(matrix_from_quat_wxyz([0.9, 0.1, -0.2, 0.4]), [1.0, 2.0, 0.5])


def cloud(degree):
    rng = np.random.default_rng(2)
    quats = rng.normal(size=(40, 4))
    arrays = (
        rng.uniform(-1, 1, (40, 3)),
        rng.uniform(0.02, 0.2, (40, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.1, 0.9, 40),
        rng.normal(0, 0.2, (40, (degree + 1) ** 2, 3)),
    )
    return Splats(*(np.ascontiguousarray(a, np.float32) for a in arrays))


@pytest.fixture(params=[0, 3])
def growth(request, tmp_path):
    """A chunk that stays and one that a closed loop has moved."""
    (tmp_path / "world" / "splats").mkdir(parents=True)
    (tmp_path / "scratch").mkdir()
    files = []
    for chunk in range(2):
        file = tmp_path / "world" / "splats" / f"{chunk}.usdc"
        write_splat_layer(cloud(request.param), file)
        files.append(FileEntry(f"splats/{chunk}.usdc", "0" * 64, 1, "splats", chunk, 0, 40))
    files[1] = replace(files[1], move=tuple(map(tuple, TURN.tolist())))
    return SimpleNamespace(files=files), cloud(request.param)


def test_ply_and_spz_hold_the_chunks_where_they_stand(growth, tmp_path):
    world, splats = growth
    made = exchange_files(world, ("ply", "spz"), tmp_path / "world")
    assert set(made) == {"splats.ply", "splats.spz"}
    for name, load, near in (("a.ply", Splats.load_ply, 1e-5), ("a.spz", load_spz, 3e-4)):
        (tmp_path / name).write_bytes(made[f"splats.{name[2:]}"])
        back = load(tmp_path / name)
        assert np.allclose(back.means[:40], splats.means, atol=near)
        assert np.allclose(back.means[40:], splats.transformed(TURN).means, atol=near)
        assert np.allclose(back.sh[40:], splats.transformed(TURN).sh, atol=max(0.02, near))


def test_the_export_command_names_the_formats_it_knows(tmp_path):
    with pytest.raises(InvalidRequest, match="use ply, spz, glb"):
        export.run(Namespace(to="obj", world=tmp_path, out=None))
