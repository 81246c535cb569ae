"""World folder -> grid -> dataset: files, hashes, the USD task layer, and what check finds."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("pxr")

from pxr import Sdf, Usd, UsdGeom, UsdPhysics, UsdValidation

from worldloom.scene.errors import CorruptData, GateNotMet, InvalidRequest, NotFound
from worldloom.tasks.dataset import check_dataset, make_dataset, open_dataset
from worldloom.tasks.episodes import Sampling
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.navmesh import walkable_surface, write_navmesh
from worldloom.tasks.observed import Observer
from worldloom.tasks.robots import load_robot, robot_from, robot_names
from worldloom.tasks.usd_tasks import write_task_layer
from worldloom.tasks.world import open_navworld, read_collider

ROBOT = load_robot("jetbot_body")
SAMPLING = Sampling(
    geodesic=(1.0, 6.0), ratio_threshold=None, min_island_area=1.0, success_radius=0.15
)


@pytest.fixture(scope="module")
def world(world_folder):
    return open_navworld(world_folder)


@pytest.fixture(scope="module")
def grid(world):
    return build_navgrid(
        world.collider, ROBOT, params=GridParams(0.025, 1.0),
        observer=Observer(world.keyframes), collider_sha256=world.collider_sha256,
    )  # fmt: skip


def make(folder, world, grid, **changes):
    options = {"name": "rooms", "count": 12, "sampling": SAMPLING, "seed": 7} | changes
    return make_dataset(folder, world, grid, ROBOT, **options)


@pytest.fixture(scope="module")
def dataset(world, grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    make(folder, world, grid)
    return folder


@pytest.fixture
def copied(dataset, world_folder, tmp_path):
    """A dataset and its world that a test may spoil."""
    shutil.copytree(world_folder, tmp_path / "world")
    world = open_navworld(tmp_path / "world")
    grid = build_navgrid(world.collider, ROBOT, params=GridParams(0.05, 1.0))
    make(tmp_path / "set", world, grid)
    return tmp_path


def test_a_world_opens_with_its_collider_keyframes_and_scale(world, rooms):
    assert len(world.collider.faces) == len(rooms.faces)
    np.testing.assert_allclose(np.sort(world.collider.extent()), np.sort(rooms.extent()))
    assert world.keyframes.depth.shape[0] == 5
    assert world.scale["status"] == "calibrated"
    assert world.run == {}


def test_most_of_the_rooms_is_seen_and_some_of_it_made_up(grid, shapes):
    floor = grid.floors[0]
    assert grid.navigable_m2 > 0.5 * shapes.navigable_truth(ROBOT.radius)
    assert 0.05 < floor.made_up[floor.walkable].mean() < 0.95


def test_a_dataset_has_the_files_and_keys_of_the_format(dataset, world):
    names = {str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_file()}
    assert names == {
        "dataset.yaml", "MANIFEST.json", "navgrid.npz", "episodes/test.jsonl", "usd/tasks.usda",
    }  # fmt: skip
    import yaml

    config = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert config["schema"] == "navtask/1"
    wanted = {"schema", "name", "seed", "worlds", "robot", "task", "goal", "limits", "control",
              "sensors", "sampling", "benchmark"}  # fmt: skip
    assert set(config) == wanted
    assert config["worlds"][0]["collider_sha256"] == world.collider_sha256
    assert config["goal"]["success_radius"] == 0.15
    assert config["sampling"]["n"] == {"test": 12}
    manifest = json.loads((dataset / "MANIFEST.json").read_text())
    assert set(manifest["files"]) == names - {"MANIFEST.json"}
    assert manifest["seed"] == 7
    assert manifest["tally"]["kept"] == 12


def test_a_dataset_opens_with_its_robot_grid_and_episodes(dataset, world, grid):
    opened = open_dataset(dataset)
    assert opened.robot == ROBOT
    assert opened.world == world.folder.resolve()
    assert opened.grid().collider_sha256 == grid.collider_sha256
    assert len(opened.episodes("test")) == 12
    assert check_dataset(dataset) == []


def test_the_same_command_gives_the_same_bytes(dataset, world, grid):
    again = dataset.parent / "again"
    make(again, world, grid)
    for file in sorted(dataset.rglob("*.*")):
        assert (again / file.relative_to(dataset)).read_bytes() == file.read_bytes(), file.name


def test_a_robot_of_the_users_own_travels_with_the_dataset(world, grid, tmp_path):
    file = tmp_path / "mine.yaml"
    numbers = ROBOT.to_json() | {"name": "mine", "v_max": 0.33}
    file.write_text(json.dumps(numbers))
    make_dataset(
        tmp_path / "set", world, grid, load_robot(str(file)), name="x", count=2,
        sampling=SAMPLING, seed=1,
    )  # fmt: skip
    file.unlink()
    assert open_dataset(tmp_path / "set").robot.v_max == 0.33


def test_check_names_changed_and_missing_files(copied):
    folder = copied / "set"
    assert check_dataset(folder) == []
    lines = (folder / "episodes" / "test.jsonl").read_text().splitlines()
    (folder / "episodes" / "test.jsonl").write_text("\n".join(lines[1:]) + "\n")
    (folder / "usd" / "tasks.usda").unlink()
    found = check_dataset(folder)
    assert "episodes/test.jsonl: changed since the dataset was made" in found
    assert "usd/tasks.usda: missing" in found


def test_check_names_a_world_that_changed_or_is_gone(copied):
    manifest = copied / "world" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"chunks": 1', b'"chunks": 2'))
    assert any("changed since" in line for line in check_dataset(copied / "set"))
    shutil.rmtree(copied / "world")
    assert any("missing" in line for line in check_dataset(copied / "set"))


def test_a_folder_that_is_no_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(CorruptData, match="nav sample"):
        open_dataset(tmp_path)
    assert check_dataset(tmp_path) == ["MANIFEST.json: missing"]
    (tmp_path / "MANIFEST.json").write_text("{}")
    with pytest.raises(CorruptData, match="cannot be read"):
        check_dataset(tmp_path)


def test_a_world_without_room_for_the_filters_is_refused_with_reasons(world, grid, tmp_path):
    far = Sampling(geodesic=(50.0, 60.0), ratio_threshold=None, min_island_area=1.0)
    with pytest.raises(GateNotMet, match=r"no episode could be drawn in \d+ tries \(.*too near"):
        make(tmp_path / "set", world, grid, sampling=far, count=1)


def test_a_folder_without_a_world_or_with_a_broken_one_is_named(tmp_path, copied):
    with pytest.raises(NotFound, match="holds no world"):
        open_navworld(tmp_path / "nothing")
    tile = next((copied / "world" / "collision").iterdir())
    tile.write_bytes(b"not usd")
    with pytest.raises(CorruptData, match="cannot be opened"):
        open_navworld(copied / "world")
    (copied / "world" / "depth" / "keyframes.npz").write_bytes(b"x")
    tile.unlink()
    with pytest.raises(CorruptData):
        open_navworld(copied / "world")


def test_a_collider_that_is_not_triangles_is_refused(tmp_path):
    stage = Usd.Stage.CreateNew(str(tmp_path / "quad.usda"))
    mesh = UsdGeom.Mesh.Define(stage, "/Mesh")
    mesh.CreatePointsAttr([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
    mesh.CreateFaceVertexCountsAttr([4])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3])
    stage.Save()
    with pytest.raises(CorruptData, match="not made of finite triangles"):
        read_collider(tmp_path / "quad.usda")


def usd_errors(file):
    """What OpenUSD's validators say; Isaac's own assets are not here to be resolved."""
    stage = Usd.Stage.Open(str(file))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    return [e.GetMessage() for e in errors if "dependency '/Isaac/" not in e.GetMessage()]


def test_the_task_layer_passes_the_usd_validators(dataset):
    assert usd_errors(dataset / "usd" / "tasks.usda") == []


def test_each_variant_places_start_goal_path_and_robot(dataset):
    stage = Usd.Stage.Open(str(dataset / "usd" / "tasks.usda"))
    assert stage.GetDefaultPrim().GetPath() == "/World"
    assert stage.GetPrimAtPath("/World/Collision")
    task = stage.GetPrimAtPath("/Task")
    variants = task.GetVariantSet("episode")
    episodes = {e.id: e for e in open_dataset(dataset).episodes("test")}
    assert set(variants.GetVariantNames()) == set(episodes)
    for name, episode in list(episodes.items())[:3]:
        variants.SetVariantSelection(name)
        assert task.GetAttribute("navtask:episodeId").Get() == name
        assert task.GetAttribute("navtask:seed").Get() == episode.seed

        def where(path):
            prim = UsdGeom.Xformable(stage.GetPrimAtPath(path))
            return prim.ComputeLocalToWorldTransform(0)

        np.testing.assert_allclose(
            where("/Task/Start").ExtractTranslation(), episode.start.position, atol=1e-5
        )
        np.testing.assert_allclose(
            where("/Task/Goal_0").ExtractTranslation(), episode.goals[0].position, atol=1e-5
        )
        robot = where("/Task/Robot")
        height = episode.start.position[2] + ROBOT.spawn_height
        np.testing.assert_allclose(
            robot.ExtractTranslation(), [*episode.start.position[:2], height], atol=1e-5
        )
        ahead = robot.TransformDir((1, 0, 0))
        yaw = episode.start.yaw
        np.testing.assert_allclose(ahead, [np.cos(yaw), np.sin(yaw), 0], atol=1e-5)
        curve = UsdGeom.BasisCurves(stage.GetPrimAtPath("/Task/ReferencePath"))
        assert len(curve.GetPointsAttr().Get()) == len(episode.reference_path)


def test_guides_neither_collide_nor_cast_shadows_and_no_ground_is_added(dataset):
    stage = Usd.Stage.Open(str(dataset / "usd" / "tasks.usda"))
    guides = ["/Task/Goal_0/Marker", "/Task/ReferencePath"]
    for path in guides:
        prim = stage.GetPrimAtPath(path)
        assert UsdGeom.Imageable(prim).GetPurposeAttr().Get() == "guide"
        assert prim.GetAttribute("primvars:doNotCastShadows").Get() is True
    colliders = [
        p.GetPath() for p in stage.Traverse()
        if p.HasAPI(UsdPhysics.CollisionAPI) and str(p.GetPath()).startswith("/Task")
    ]  # fmt: skip
    assert colliders == ["/Task/Robot/Body"]
    assert not [p for p in stage.Traverse() if p.IsA(UsdGeom.Plane)]


def test_the_robot_has_a_proxy_and_its_isaac_asset_as_embodiments(dataset):
    layer = Sdf.Layer.FindOrOpen(str(dataset / "usd" / "tasks.usda"))
    spec = layer.GetPrimAtPath("/Task/Robot{embodiment=jetbot_body}")
    assert [p.assetPath for p in spec.payloadList.prependedItems] == [ROBOT.usd]
    stage = Usd.Stage.Open(layer)
    chosen = stage.GetPrimAtPath("/Task/Robot").GetVariantSet("embodiment")
    assert chosen.GetVariantSelection() == "proxy_cylinder"


def test_a_physics_scene_is_added_only_where_the_world_has_none(dataset, tmp_path):
    episodes = open_dataset(dataset).episodes("test")[:1]
    stage = Usd.Stage.CreateNew(str(tmp_path / "world.usda"))
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/World").GetPrim())
    stage.Save()
    write_task_layer(tmp_path / "a.usda", tmp_path / "world.usda", episodes, ROBOT, dataset="x")

    def scenes(file):
        opened = Usd.Stage.Open(str(file))
        return [str(p.GetPath()) for p in opened.Traverse() if p.IsA(UsdPhysics.Scene)]

    assert scenes(tmp_path / "a.usda") == ["/Task/PhysicsScene"]
    UsdPhysics.Scene.Define(stage, "/World/Physics")
    stage.Save()
    write_task_layer(tmp_path / "b.usda", tmp_path / "world.usda", episodes, ROBOT, dataset="x")
    assert scenes(tmp_path / "b.usda") == ["/World/Physics"]


def test_the_navmesh_covers_the_walkable_cells_and_is_valid_usd(grid, tmp_path):
    surface = walkable_surface(grid, grid.floors[0])
    assert surface.areas().sum() == pytest.approx(grid.floors[0].walkable.sum() * grid.cell**2)
    assert (surface.normals()[:, 2] > 0.9).all()
    write_navmesh(grid, tmp_path / "navmesh.usda")
    assert usd_errors(tmp_path / "navmesh.usda") == []
    stage = Usd.Stage.Open(str(tmp_path / "navmesh.usda"))
    mesh = stage.GetPrimAtPath("/NavMesh/Floor_0")
    assert UsdGeom.Imageable(mesh).GetPurposeAttr().Get() == "guide"
    assert not mesh.HasAPI(UsdPhysics.CollisionAPI)


def test_all_shipped_robots_load_and_drive_at_sane_speeds():
    assert robot_names() == ["jetbot_body", "locobot_like", "nova_carter", "proxy_cylinder"]
    for name in robot_names():
        robot = load_robot(name)
        assert robot.name == name
        assert robot_from(robot.to_json()) == robot
        assert robot.wheel_base <= 2 * robot.radius + 0.01
        assert robot.v_max < 2
        assert robot.max_step < robot.height


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"radius": -1}, "radius = -1"),
        ({"radius": "wide"}, "radius = 'wide'"),
        ({"v_max": float("nan")}, "v_max = nan"),
        ({"wings": 2}, "wings"),
    ],
)
def test_a_robot_that_cannot_be_is_refused_by_key(change, text):
    with pytest.raises(InvalidRequest, match=text):
        robot_from(ROBOT.to_json() | change)


def test_an_unknown_robot_lists_the_known_ones():
    with pytest.raises(InvalidRequest, match="jetbot_body, locobot_like"):
        load_robot("r2d2")
