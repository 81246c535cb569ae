"""Layers written here open in the OpenUSD of Isaac Sim 5.1 and 6 with the same content."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pxr")

from worldloom.generator.layers.cameras_layer import cameras_layer_text
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.splat_layer import write_splat_layer
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.frame import look_at
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats
from worldloom.scene.worldfile import render_world_usda

REPOSITORY = Path(__file__).parents[2]
OTHERS = {"24.5 (Isaac Sim 5.1)": ".venv-usd24", "25.11 (Isaac Sim 6)": ".venv-ui"}


def cameras(n=5):
    c2w = np.stack([look_at([0.2 * i, 0, 1.2], [5, 0, 1]) for i in range(n)])
    K = np.repeat(intrinsics(70, 320, 180)[None], n, 0)
    return Cameras(c2w, K, np.tile([320, 180], (n, 1)), np.arange(n))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world with real layers."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    means = rng.uniform(-1, 1, (1000, 3))
    quats = np.tile([1.0, 0, 0, 0], (1000, 1))
    splats = Splats.from_rgb(
        means, np.full((1000, 3), 0.02), quats, np.full(1000, 0.5), rng.random((1000, 3))
    )
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.2]], "f4")
    mesh = TriMesh(corners, np.array([[0, 1, 2], [1, 3, 2]], "i4"), np.full((4, 3), 0.3, "f4"))
    write_splat_layer(splats, folder / "s.usdc")
    write_points_layer(splats.means, splats.rgb(), folder / "p.usdc")
    write_collider_layer(mesh, folder / "c.usdc")
    write_visual_layer(mesh, folder / "v.usdc")
    (folder / "cameras.usda").write_bytes(cameras_layer_text(cameras()))
    kinds = {"s.usdc": "splats", "p.usdc": "points", "c.usdc": "collision", "v.usdc": "visual",
             "cameras.usda": "cameras_usd"}  # fmt: skip
    files = tuple(FileEntry(name, "0" * 64, 1, kind, chunk=0) for name, kind in kinds.items())
    manifest = Manifest("ab" * 32, {}, {"preset": "truth"}, {}, 1, 5, files)
    (folder / "world.usda").write_bytes(render_world_usda(manifest))
    return folder / "world.usda"


def seen_by(python, world):
    script = Path(__file__).with_name("read_world.py")
    done = subprocess.run(
        [str(python), str(script), str(world)],
        capture_output=True, text=True, timeout=60, check=True, cwd=world.parent,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", OTHERS)
def test_an_older_usd_sees_the_same_world(world, name):
    python = REPOSITORY / OTHERS[name] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {OTHERS[name]}; tools/test_matrix.sh makes it")
    here, there = seen_by(sys.executable, world), seen_by(python, world)
    assert there.pop("version") < here.pop("version")
    assert there == here


def test_the_camera_keeps_its_time_in_the_world(world):
    """Frame 2 of a 16 Hz path is 1/8 s in, which is time code 7.5 of the stage."""
    assert seen_by(sys.executable, world)["camera"] == pytest.approx([0.4, 0, 1.2], abs=1e-6)
