"""USD layers hold what they were given, byte for byte the same in every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pxr")

from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics, UsdShade

from worldloom.generator.layers.cameras_layer import cameras_layer_text, write_cameras_layer
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.read import read_mesh_layer, read_splat_layer
from worldloom.generator.layers.splat_layer import (
    SPLATS_PER_FILE,
    split_splats,
    write_splat_layer,
)
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.scene.cameras import Cameras, intrinsics, project
from worldloom.scene.errors import CorruptData, InvalidCameraPath, StorageUnwritable
from worldloom.scene.frame import look_at
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats

REPOSITORY = Path(__file__).parents[2]


def cloud(n=500, k=1, seed=0):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4)).astype("f4")
    return Splats(
        rng.uniform(-2, 2, (n, 3)).astype("f4"),
        rng.uniform(0.001, 0.1, (n, 3)).astype("f4"),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.01, 0.99, n).astype("f4"),
        rng.normal(size=(n, k, 3)).astype("f4"),
    )


def floor(side=4, color=True):
    """A flat floor of 2 side^2 triangles that faces up."""
    x, y = np.meshgrid(np.arange(side + 1.0), np.arange(side + 1.0), indexing="ij")
    points = np.stack([x, y, 0 * x], -1).reshape(-1, 3).astype("f4")
    a = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1)
    faces = np.stack([a, a + side + 1, a + 1, a + 1, a + side + 1, a + side + 2], -1)
    colors = np.linspace(0, 1, points.size, dtype="f4").reshape(points.shape) if color else None
    return TriMesh(points, faces.reshape(-1, 3).astype("i4"), colors)


def cameras(n=5):
    eyes = [[0.3 * i, 0.1 * i, 1.2 + 0.05 * i] for i in range(n)]
    c2w = np.stack([look_at(eye, [4.0, 0.2 * i, 0.9]) for i, eye in enumerate(eyes)])
    K = np.repeat(intrinsics(70.0, 640, 360)[None], n, 0)
    # An off-centre principal point and unequal focal lengths pin every lens attribute.
    K[:, 0, 2] += 13.0
    K[:, 1, 2] -= 7.5
    K[:, 1, 1] *= 1.02
    return Cameras(c2w, K, np.tile([640, 360], (n, 1)), np.arange(n))


@pytest.mark.parametrize("k", [1, 16])
def test_splats_come_back_from_a_layer_exactly(tmp_path, k):
    splats = cloud(k=k)
    write_splat_layer(splats, tmp_path / "s.usdc")
    again = read_splat_layer(tmp_path / "s.usdc")
    for name in ("means", "scales", "quats_wxyz", "opacities", "sh"):
        assert np.array_equal(getattr(again, name), getattr(splats, name)), name


def test_the_splat_prim_has_the_form_that_renderers_want(tmp_path):
    splats = cloud(k=16)
    write_splat_layer(splats, tmp_path / "s.usdc")
    stage = Usd.Stage.Open(str(tmp_path / "s.usdc"))
    assert stage.GetDefaultPrim().GetPath() == "/Chunk"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    prim = stage.GetPrimAtPath("/Chunk/Gaussians")
    assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 3
    sh = prim.GetAttribute("radiance:sphericalHarmonicsCoefficients")
    assert sh.GetMetadata("elementSize") == 16
    assert sh.GetMetadata("interpolation") == "vertex"
    # Gf prints and stores quaternions in different orders; the real part must be the real part.
    first = prim.GetAttribute("orientations").Get()[0]
    assert [first.GetReal(), *first.GetImaginary()] == pytest.approx(splats.quats_wxyz[0].tolist())
    low, high = np.array(prim.GetAttribute("extent").Get())
    reach = 3 * splats.scales.max(1, keepdims=True)
    assert low == pytest.approx((splats.means - reach).min(0), abs=1e-5)
    assert high == pytest.approx((splats.means + reach).max(0), abs=1e-5)
    assert not [a for a in prim.GetAuthoredAttributes() if a.IsCustom()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": 0.0}, "scale that is not above zero"),
        ({"opacities": 1.5}, "opacity outside 0..1"),
        ({"means": np.nan}, "NaN or infinity"),
        ({"quats_wxyz": 0.0}, "not of unit length"),
    ],
)
def test_splats_that_would_render_black_are_refused(tmp_path, change, message):
    splats = cloud()
    for name, value in change.items():
        getattr(splats, name)[7] = value
    with pytest.raises(CorruptData, match=message) as caught:
        write_splat_layer(splats, tmp_path / "s.usdc")
    assert "number 7" in str(caught.value)
    assert not (tmp_path / "s.usdc").exists()


def test_no_splats_and_too_many_are_refused(tmp_path):
    with pytest.raises(CorruptData, match="no splats"):
        write_splat_layer(Splats.empty(), tmp_path / "s.usdc")
    with pytest.raises(CorruptData, match="limit is 250000"):
        write_splat_layer(cloud(SPLATS_PER_FILE + 1), tmp_path / "s.usdc")
    with pytest.raises(CorruptData, match="degree 1"):
        write_splat_layer(cloud(k=4), tmp_path / "s.usdc")


def test_splitting_loses_nothing_and_keeps_pieces_compact():
    splats = cloud(10_000)
    parts = split_splats(splats, limit=1500)
    assert max(part.n for part in parts) <= 1500
    together = np.concatenate([part.means for part in parts])
    assert np.array_equal(np.sort(together, 0), np.sort(splats.means, 0))
    assert len(np.unique(together, axis=0)) == splats.n
    volumes = [np.prod(np.ptp(part.means, axis=0)) for part in parts]
    # A random cut would give every part the whole volume of 64 m3.
    assert np.median(volumes) < 0.5 * 64
    assert split_splats(Splats.empty()) == []


def test_a_prefix_of_a_part_covers_its_whole_piece():
    part = split_splats(cloud(20_000))[0]
    prefix = part.means[: part.n // 10]
    assert (np.ptp(prefix, axis=0) > 0.9 * np.ptp(part.means, axis=0)).all()


def test_points_are_stored_as_linear_light_with_a_width(tmp_path):
    splats = cloud()
    rgb = np.full((splats.n, 3), 0.5)
    write_points_layer(splats.means, rgb, tmp_path / "p.usdc")
    stage = Usd.Stage.Open(str(tmp_path / "p.usdc"))
    prim = UsdGeom.Points(stage.GetPrimAtPath("/Chunk/Points"))
    assert np.array_equal(np.array(prim.GetPointsAttr().Get()), splats.means)
    # sRGB 0.5 is 0.2140 in linear light (IEC 61966-2-1).
    assert np.array(prim.GetDisplayColorAttr().Get()) == pytest.approx(0.2140, abs=1e-4)
    guessed = np.array(prim.GetWidthsAttr().Get())
    assert guessed.shape == (splats.n,)
    assert (guessed == guessed[0]).all()
    assert 0.01 < guessed[0] < 1.0
    # OpenUSD must be able to compute the extent that was written.
    computed = UsdGeom.Boundable.ComputeExtentFromPlugins(prim, Usd.TimeCode.Default())
    assert np.array(computed) == pytest.approx(np.array(prim.GetExtentAttr().Get()), abs=1e-5)
    widths = np.linspace(0.01, 0.1, splats.n)
    write_points_layer(splats.means, rgb, tmp_path / "q.usdc", widths=widths)
    stage = Usd.Stage.Open(str(tmp_path / "q.usdc"))
    prim = UsdGeom.Points(stage.GetPrimAtPath("/Chunk/Points"))
    assert prim.GetWidthsInterpolation() == "vertex"
    assert np.array(prim.GetWidthsAttr().Get()) == pytest.approx(widths)


def test_a_point_that_is_not_finite_is_refused(tmp_path):
    points = np.zeros((4, 3))
    points[2, 1] = np.inf
    with pytest.raises(CorruptData, match="1 of them not finite"):
        write_points_layer(points, points, tmp_path / "p.usdc")


def test_a_collider_holds_the_exact_triangles_and_its_physics(tmp_path):
    mesh = floor(color=False)
    write_collider_layer(mesh, tmp_path / "c.usdc")
    again = read_mesh_layer(tmp_path / "c.usdc")
    assert np.array_equal(again.vertices, mesh.vertices)
    assert np.array_equal(again.faces, mesh.faces)
    assert (again.normals()[:, 2] > 0.999).all()
    stage = Usd.Stage.Open(str(tmp_path / "c.usdc"))
    prim = stage.GetPrimAtPath("/Tile/Mesh")
    assert UsdPhysics.CollisionAPI(prim).GetCollisionEnabledAttr().Get() is True
    assert UsdPhysics.MeshCollisionAPI(prim).GetApproximationAttr().Get() == "none"
    shape = UsdGeom.Mesh(prim)
    assert shape.GetPurposeAttr().Get() == "guide"
    assert shape.GetSubdivisionSchemeAttr().Get() == "none"
    assert shape.GetOrientationAttr().Get() == "rightHanded"
    assert shape.GetNormalsInterpolation() == "uniform"
    material, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial("physics")
    physics = UsdPhysics.MaterialAPI(material.GetPrim())
    values = (
        physics.GetStaticFrictionAttr(),
        physics.GetDynamicFrictionAttr(),
        physics.GetRestitutionAttr(),
    )
    assert [round(value.Get(), 6) for value in values] == [0.8, 0.6, 0.05]


def test_triangles_without_area_and_unused_vertices_are_left_out(tmp_path):
    mesh = floor(1, color=False)
    vertices = np.concatenate([mesh.vertices, [[9, 9, 9], [0.5, 0, 0]]]).astype("f4")
    # One face names a corner twice, one has its three corners on a line.
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [0, 5, 2]]]).astype("i4")
    write_collider_layer(TriMesh(vertices, faces), tmp_path / "c.usdc")
    again = read_mesh_layer(tmp_path / "c.usdc")
    assert len(again.faces) == 2
    assert len(again.vertices) == 4


@pytest.mark.parametrize(
    ("vertex", "face", "message"),
    [(np.nan, 0, "not finite"), (1.0, 99, "faces name vertices"), (1.0, -1, "faces name")],
)
def test_a_mesh_that_physics_would_drop_is_refused(tmp_path, vertex, face, message):
    mesh = floor(color=False)
    mesh.vertices[3, 2] = vertex
    mesh.faces[0, 0] = face
    with pytest.raises(CorruptData, match=message):
        write_collider_layer(mesh, tmp_path / "c.usdc")


def test_a_mesh_without_any_area_is_refused(tmp_path):
    mesh = TriMesh(np.zeros((3, 3), "f4"), np.array([[0, 1, 2]], "i4"))
    with pytest.raises(CorruptData, match="none of 1 triangles has an area"):
        write_collider_layer(mesh, tmp_path / "c.usdc")


def test_colours_of_the_preview_mesh_survive(tmp_path):
    mesh = floor()
    write_visual_layer(mesh, tmp_path / "v.usdc")
    again = read_mesh_layer(tmp_path / "v.usdc")
    assert again.colors == pytest.approx(mesh.colors, abs=1e-5)
    stage = Usd.Stage.Open(str(tmp_path / "v.usdc"))
    prim = stage.GetPrimAtPath("/Visual/Mesh")
    assert not prim.HasAPI(UsdPhysics.CollisionAPI)
    write_visual_layer(floor(color=False), tmp_path / "grey.usdc")
    assert read_mesh_layer(tmp_path / "grey.usdc").colors == pytest.approx(0.5, abs=1e-5)


def test_usd_cameras_see_each_point_at_the_same_pixel(tmp_path):
    """The USD frustum of every frame projects points to the pixels of our own model."""
    path = cameras()
    write_cameras_layer(path, tmp_path / "cameras.usda")
    stage = Usd.Stage.Open(str(tmp_path / "cameras.usda"))
    points = np.array([[3.0, 0.4, 0.7], [5.0, -0.6, 1.4], [2.5, 0.1, 1.0]])
    for k in range(path.n):
        camera = UsdGeom.Camera(stage.GetPrimAtPath("/Cameras/Path")).GetCamera(k)
        window = camera.frustum.ComputeViewMatrix() * camera.frustum.ComputeProjectionMatrix()
        wanted, depth = project(points, path.K[k], path.w2c[k])
        assert (depth > 0).all()
        for point, pixel in zip(points, wanted, strict=True):
            ndc = window.Transform(Gf.Vec3d(*point))
            seen = [(ndc[0] + 1) / 2 * 640, (1 - ndc[1]) / 2 * 360]
            assert seen == pytest.approx(pixel, abs=0.01)


def test_the_photo_camera_stands_still_and_the_path_blends_smoothly(tmp_path):
    path = cameras()
    write_cameras_layer(path, tmp_path / "cameras.usda")
    stage = Usd.Stage.Open(str(tmp_path / "cameras.usda"))
    still = UsdGeom.Xformable(stage.GetPrimAtPath("/Cameras/Photo"))
    assert not still.TransformMightBeTimeVarying()
    moving = UsdGeom.Xformable(stage.GetPrimAtPath("/Cameras/Path"))
    between = np.array(moving.ComputeLocalToWorldTransform(1.5))[3, :3]
    assert between == pytest.approx((path.centres[1] + path.centres[2]) / 2)
    clipping = UsdGeom.Camera(stage.GetPrimAtPath("/Cameras/Path")).GetClippingRangeAttr().Get()
    assert clipping[0] <= 0.01


def test_a_zooming_path_has_a_changing_lens():
    path = cameras()
    path.K[:, :2, :2] *= np.linspace(1, 2, path.n)[:, None, None]
    text = cameras_layer_text(path).decode()
    assert "float focalLength.timeSamples" in text
    assert "float focalLength.timeSamples" not in cameras_layer_text(cameras()).decode()
    assert Sdf.Layer.CreateAnonymous(".usda").ImportFromString(text)


def test_no_cameras_are_refused():
    with pytest.raises(InvalidCameraPath, match="no cameras"):
        cameras_layer_text(cameras().select(slice(0, 0)))


def test_reading_something_else_says_what_is_missing(tmp_path):
    (tmp_path / "junk.usdc").write_bytes(b"not a layer")
    with pytest.raises(CorruptData, match="is not a USD layer"):
        read_mesh_layer(tmp_path / "junk.usdc")
    with pytest.raises(CorruptData, match=r"absent\.usdc is missing"):
        read_splat_layer(tmp_path / "absent.usdc")
    write_visual_layer(floor(), tmp_path / "v.usdc")
    with pytest.raises(CorruptData, match="holds no splats"):
        read_splat_layer(tmp_path / "v.usdc")
    write_splat_layer(cloud(), tmp_path / "s.usdc")
    with pytest.raises(CorruptData, match="holds no mesh"):
        read_mesh_layer(tmp_path / "s.usdc")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "blocker").write_text("a file, not a folder")
    with pytest.raises(StorageUnwritable, match=r"blocker.*s\.usdc"):
        write_splat_layer(cloud(), tmp_path / "blocker" / "s.usdc")


WRITE_ALL = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from test_layers import *
folder = Path(sys.argv[2])
for k in (1, 16):
    write_splat_layer(split_splats(cloud(20000, k))[0], folder / f"s{k}.usdc")
write_points_layer(cloud().means, cloud().rgb(), folder / "p.usdc")
write_collider_layer(floor(60, color=False), folder / "c.usdc")
write_visual_layer(floor(60), folder / "v.usdc")
write_cameras_layer(cameras(), folder / "cameras.usda")
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    """Files are named by their content, so hash seeds, threads and names must not show in them."""
    found = []
    for run in range(2):
        folder = tmp_path / f"run{run}"
        folder.mkdir()
        environment = os.environ | {
            "PYTHONHASHSEED": str(run),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-c", WRITE_ALL, str(Path(__file__).parent), str(folder)]
        subprocess.run(command, env=environment, check=True, cwd=REPOSITORY, timeout=60)
        files = sorted(folder.iterdir())
        assert len(files) == 6
        found.append({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
    assert found[0] == found[1]
