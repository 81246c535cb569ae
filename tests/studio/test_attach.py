"""A world reaches the stage whole, in the stage's own units, and only after it was checked."""

import pytest
from pxr import Gf, Usd, UsdGeom

from worldloom.scene.errors import CorruptData, NotFound
from worldloom.studio.attach import attach_world, prepare_world, prim_name, splat_variant

KNOWS_SPLATS = tuple(Usd.GetVersion()) >= (0, 26, 3)


def attached(folder, stage):
    return attach_world(stage, prepare_world(folder))


def test_a_world_is_added_below_world(tmp_path, make_world):
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, "Z")
    UsdGeom.SetStageMetersPerUnit(stage, 1)
    path = attached(make_world(tmp_path / "garage"), stage)
    assert path == "/World/garage"
    child = "Gaussians" if KNOWS_SPLATS else "Points"
    for name in (f"Splats/chunk_0000/{child}", "Collision/tile_0000/Mesh", "Cameras/Photo"):
        assert stage.GetPrimAtPath(f"{path}/{name}"), name
    assert stage.GetDefaultPrim().GetPath() == "/World"
    assert UsdGeom.Xformable(stage.GetPrimAtPath(path)).GetOrderedXformOps() == []


def test_where_usd_has_no_splats_the_points_are_shown(tmp_path, make_world):
    stage = Usd.Stage.CreateInMemory()
    path = attached(make_world(tmp_path / "garage"), stage)
    shown = stage.GetPrimAtPath(f"{path}/Splats").GetVariantSet("splatFormat")
    assert shown.GetVariantSelection() == ("particleField" if KNOWS_SPLATS else "points")
    assert splat_variant() == shown.GetVariantSelection()


def test_the_same_world_twice_gets_two_names(tmp_path, make_world):
    stage = Usd.Stage.CreateInMemory()
    folder = make_world(tmp_path / "garage")
    assert [attached(folder, stage) for _ in range(3)] == [
        "/World/garage", "/World/garage_01", "/World/garage_02",
    ]  # fmt: skip


def test_a_stage_in_centimetres_with_y_up_gets_a_fitted_world(tmp_path, make_world):
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, "Y")
    UsdGeom.SetStageMetersPerUnit(stage, 0.01)
    path = attached(make_world(tmp_path / "garage"), stage)
    to_stage = UsdGeom.XformCache().GetLocalToWorldTransform(stage.GetPrimAtPath(path))
    # One metre up and two metres ahead of the camera.
    assert list(to_stage.Transform(Gf.Vec3d(2, 0, 1))) == pytest.approx([200, 100, 0])


def test_the_users_edit_target_stays_theirs(tmp_path, make_world):
    stage = Usd.Stage.CreateInMemory()
    stage.SetEditTarget(stage.GetSessionLayer())
    path = attached(make_world(tmp_path / "garage"), stage)
    assert stage.GetEditTarget().GetLayer() == stage.GetSessionLayer()
    assert stage.GetSessionLayer().GetPrimAtPath(path)
    assert not stage.GetRootLayer().GetPrimAtPath(path)


def test_a_hostile_world_is_refused_before_any_stage_sees_it(tmp_path, make_world, hostile):
    folder = make_world(tmp_path / "garage", spoil=hostile)
    with pytest.raises(CorruptData, match=r"was not added: visual/.*OmniGraphNode"):
        prepare_world(folder)


def test_a_changed_layer_is_refused(tmp_path, make_world):
    folder = make_world(tmp_path / "garage")
    file = next((folder / "collision").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptData, match="does not match its sha256"):
        prepare_world(folder)


def test_a_missing_layer_and_a_missing_world_are_named(tmp_path, make_world):
    folder = make_world(tmp_path / "garage")
    next((folder / "visual").iterdir()).unlink()
    with pytest.raises(CorruptData, match=r"visual/.*missing"):
        prepare_world(folder)
    with pytest.raises(NotFound, match="holds no world"):
        prepare_world(tmp_path)


def test_a_root_that_somebody_edited_is_neither_used_nor_lost(tmp_path, make_world):
    folder = make_world(tmp_path / "garage")
    theirs = b"#usda 1.0\n( subLayers = [@omniverse://evil/x.usd@] )\n"
    ours = (folder / "world.usda").read_bytes()
    (folder / "world.usda").write_bytes(theirs)
    prepared = prepare_world(folder)
    assert prepared.root.name.startswith("world-")
    assert prepared.root.read_bytes() == ours
    assert (folder / "world.usda").read_bytes() == theirs
    # Asked again, the same file serves.
    assert prepare_world(folder).root == prepared.root
    stage = Usd.Stage.CreateInMemory()
    assert stage.GetPrimAtPath(f"{attach_world(stage, prepared)}/Collision/tile_0000/Mesh")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("garage", "garage"), ("my garage!", "my_garage_"), ("3rd floor", "_3rd_floor"),
        ("demo/world", "demo"), ("h\u00e4user", "h_user"),
    ],
)  # fmt: skip
def test_prims_are_named_after_their_folder(tmp_path, folder, name):
    assert prim_name(tmp_path / folder) == name
