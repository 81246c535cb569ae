"""check_world: a sound world has no problems, and each defect is found and named."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pxr")

from pxr import Sdf, Vt

from worldloom.generator.layers import geometry_rules
from worldloom.generator.layers.cameras_layer import cameras_layer_text
from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.splat_layer import split_splats, write_splat_layer
from worldloom.generator.layers.validate import check_world
from worldloom.generator.layers.validators import nvidia_available, nvidia_problems, usd_problems
from worldloom.generator.layers.visual_layer import write_visual_layer
from worldloom.generator.publish import Publisher, extent_of
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.errors import NotFound
from worldloom.scene.frame import look_at
from worldloom.scene.manifest import Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats


def grid(origin, u, v, cells):
    """A flat patch of triangles whose front is u x v."""
    origin, u, v = (np.asarray(x, float) for x in (origin, u, v))
    i, j = np.meshgrid(np.arange(cells + 1) / cells, np.arange(cells + 1) / cells, indexing="ij")
    points = origin + i[..., None] * u + j[..., None] * v
    a = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).reshape(-1)
    faces = np.stack([a, a + cells + 1, a + 1, a + 1, a + cells + 1, a + cells + 2], -1)
    return TriMesh(points.reshape(-1, 3).astype("f4"), faces.reshape(-1, 3).astype("i4"))


def room():
    """A floor of 6 x 6 m before the camera and a wall at its far end, both facing inwards."""
    floor = grid([0, -3, 0], [6, 0, 0], [0, 6, 0], 12)
    wall = grid([6, -3, 0], [0, 0, 2.5], [0, 6, 0], 8)
    mesh = TriMesh.concat([floor, wall])
    return replace(mesh, colors=np.full_like(mesh.vertices, 0.6))


def splats_on(mesh, n=12_000):
    """Discs scattered over a mesh."""
    rng = np.random.default_rng(1)
    face = rng.choice(len(mesh.faces), n, p=mesh.areas() / mesh.areas().sum())
    w = rng.dirichlet([1, 1, 1], n)
    means = np.einsum("nk,nkd->nd", w, mesh.corners()[face])
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    return Splats.from_rgb(
        means, np.full((n, 3), 0.02), quats, np.full(n, 0.9), rng.uniform(0, 1, (n, 3))
    )


def walk(n=5):
    eyes = [[0.2 + 0.2 * i, 0.1 * i, 1.2] for i in range(n)]
    c2w = np.stack([look_at(eye, [6.0, 0.0, 0.8]) for eye in eyes])
    K = np.repeat(intrinsics(80.0, 320, 180)[None], n, 0)
    return Cameras(c2w, K, np.tile([320, 180], (n, 1)), np.arange(n))


def build(work, *, mesh=None, splats=None, budget=150_000, count=None, edit=None):
    """A whole world folder; `edit(kind, file)` may spoil a layer after it was written."""
    publisher = Publisher(work, lambda event: None)
    mesh = room() if mesh is None else mesh
    splats = splats_on(room()) if splats is None else splats
    files = []

    def add(kind, write, shape, n):
        def both(file):
            write(file)
            if edit:
                edit(kind, file)

        files.append(
            publisher.immutable(
                kind, both, chunk=0, tile=len([f for f in files if f.kind == kind]),
                count=n if count is None else count, extent=extent_of(shape.extent()),
            )
        )  # fmt: skip

    for part in split_splats(splats, limit=8_000):
        add("splats", lambda file, part=part: write_splat_layer(part, file), part, part.n)
        add("points", lambda file, part=part: write_points_layer(part.means, part.rgb(), file),
            part, part.n)  # fmt: skip
    add("collision", lambda file: write_collider_layer(mesh, file), mesh, len(mesh.faces))
    add("visual", lambda file: write_visual_layer(mesh, file), mesh, len(mesh.faces))
    manifest = Manifest(
        "ab" * 32,
        {"output": {"collider_triangles": budget}},
        {"preset": "truth", "weights": []},
        {"status": "calibrated", "sigma": 0.01},
        chunks=0,
        frames=walk().n,
        files=tuple(files),
    )
    cameras = {"cameras.npz": walk().to_npz(), "cameras.usda": cameras_layer_text(walk())}
    publisher.revision(manifest, cameras, revision=0)
    return publisher.world


def rules(folder, **options):
    return {problem.rule for problem in check_world(folder, **options)}


def test_a_sound_world_has_no_problems(tmp_path):
    folder = build(tmp_path)
    assert check_world(folder) == []
    assert usd_problems(folder / "world.usda") == []


@pytest.mark.skipif(not nvidia_available(), reason="usd-validation-nvidia is not installed")
def test_every_layer_also_passes_on_its_own(tmp_path):
    """The files are also used one by one: in other stages, in the extension, by other tools."""
    folder = build(tmp_path)
    layers = [f for f in sorted(folder.rglob("*.usd?")) if ".revisions" not in f.parts]
    assert len(layers) == 8
    for layer in layers:
        assert usd_problems(layer) == [], layer.name
        assert nvidia_problems(layer) == [], layer.name


def test_a_folder_without_a_world_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="holds no world"):
        check_world(tmp_path)


@pytest.mark.parametrize("which", ["all", "floor"])
def test_a_flipped_collider_is_found(tmp_path, which):
    mesh = room()
    faces = mesh.faces.copy()
    chosen = slice(None) if which == "all" else slice(0, 288)
    faces[chosen] = faces[chosen, ::-1]
    found = check_world(build(tmp_path, mesh=replace(mesh, faces=faces)))
    winding = [p for p in found if p.rule == "winding"]
    assert "robots would fall" in str(winding[0])
    assert geometry_rules.back_share(room(), walk()) == 0


@pytest.mark.parametrize("change", ["moved", "scaled"])
def test_splats_that_are_not_where_the_collider_is_are_found(tmp_path, change):
    splats = splats_on(room())
    if change == "moved":
        splats.means[:, 2] += 0.5
    else:
        splats.means[:] *= 0.7
    assert "registration" in rules(build(tmp_path, splats=splats), validators=False)


def test_a_collider_over_its_budget_is_found(tmp_path):
    assert rules(build(tmp_path, budget=100), validators=False) == {"triangle budget"}


def test_counts_that_differ_from_the_manifest_are_found(tmp_path):
    assert "count" in rules(build(tmp_path, count=7), validators=False)


def test_a_missing_file_is_found(tmp_path):
    folder = build(tmp_path)
    next((folder / "collision").iterdir()).unlink()
    assert str(check_world(folder)[0]).endswith("missing [files]")


def test_an_edited_root_is_found(tmp_path):
    folder = build(tmp_path)
    file = folder / "world.usda"
    file.write_bytes(file.read_bytes() + b"\n")
    assert rules(folder, validators=False) == {"root"}
    file.unlink()
    assert rules(folder, validators=False) == {"root"}


def test_a_hostile_layer_is_found_and_nothing_is_composed(tmp_path):
    def edit(kind, file):
        if kind == "visual":
            layer = Sdf.Layer.OpenAsAnonymous(str(file))
            Sdf.PrimSpec(layer.GetPrimAtPath("/Visual"), "Node", Sdf.SpecifierDef, "OmniGraphNode")
            layer.Export(str(file))

    problems = check_world(build(tmp_path, edit=edit))
    assert {p.rule for p in problems} == {"trust"}
    assert "OmniGraphNode" in problems[0].message


def spoil(path, value):
    """An edit that overwrites one attribute of the collider or the splats."""

    def edit(kind, file):
        layer = Sdf.Layer.OpenAsAnonymous(str(file))
        attribute = layer.GetAttributeAtPath(path)
        if attribute is not None:
            attribute.default = value(np.array(attribute.default))
            layer.Export(str(file))

    return edit


def test_a_vertex_that_is_not_finite_is_found(tmp_path):
    def nan(points):
        points[3, 1] = np.nan
        return Vt.Vec3fArray.FromNumpy(points)

    assert "finite" in rules(
        build(tmp_path, edit=spoil("/Tile/Mesh.points", nan)), validators=False
    )


def test_a_face_that_names_no_vertex_is_found(tmp_path):
    def wrong(indices):
        indices[5] = 10**6
        return Vt.IntArray.FromNumpy(indices)

    path = "/Tile/Mesh.faceVertexIndices"
    assert "topology" in rules(build(tmp_path, edit=spoil(path, wrong)), validators=False)


def test_a_file_of_the_wrong_form_is_named(tmp_path):
    def edit(kind, file):
        if kind == "collision":
            write_visual_layer(room(), file)
        if kind == "splats":
            write_points_layer(np.zeros((3, 3)), np.zeros((3, 3)), file)

    assert "form" in rules(build(tmp_path, edit=edit), validators=False)


@pytest.mark.skipif(not nvidia_available(), reason="usd-validation-nvidia is not installed")
def test_nvidias_splat_rule_is_really_run(tmp_path):
    def loud(opacities):
        return Vt.FloatArray.FromNumpy(opacities * 3)

    found = check_world(build(tmp_path, edit=spoil("/Chunk/Gaussians.opacities", loud)))
    assert any("VG.035" in problem.rule for problem in found)
    assert any(problem.rule == "splat values" for problem in found)


def test_openusds_own_validators_are_really_run(tmp_path):
    """An attribute of another type than the schema's reads as empty in most viewers."""

    def edit(kind, file):
        if kind == "splats":
            layer = Sdf.Layer.OpenAsAnonymous(str(file))
            prim = layer.GetPrimAtPath("/Chunk/Gaussians")
            values = np.array(prim.attributes["opacities"].default, "f8")
            del prim.properties["opacities"]
            attribute = Sdf.AttributeSpec(prim, "opacities", Sdf.ValueTypeNames.DoubleArray)
            attribute.default = Vt.DoubleArray.FromNumpy(values)
            layer.Export(str(file))

    found = check_world(build(tmp_path, edit=edit))
    assert any(problem.rule == "AttributeTypeMismatch" for problem in found), found
