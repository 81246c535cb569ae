"""ROS maps: an independent reader of nav2's format finds what the grid says."""

import numpy as np
import pytest
import yaml

from worldloom.scene.errors import CorruptData
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.robots import load_robot
from worldloom.tasks.rosmap import read_ros_map, write_ros_map


@pytest.fixture(scope="module")
def grid(rooms):
    return build_navgrid(rooms, load_robot("jetbot_body"), params=GridParams(0.025, 0.5))


def nav2_reads(file, *, free=None):
    """nav2's map_io in trinary mode, written from its description: value by (row from below)."""
    meta = yaml.safe_load(file.read_text())
    data = (file.parent / meta["image"]).read_bytes()
    magic, size, depth, pixels = data.split(b"\n", 3)
    assert (magic, depth) == (b"P5", b"255")
    width, height = map(int, size.split())
    image = np.frombuffer(pixels, np.uint8).reshape(height, width)[::-1]
    occupied = (255 - image.astype(float)) / 255
    value = np.full(image.shape, -1)
    value[occupied >= meta["occupied_thresh"]] = 100
    value[occupied <= (free or meta["free_thresh"])] = 0
    return value, meta


def test_an_independent_reader_finds_walls_floor_and_unknown(grid, shapes, tmp_path):
    write_ros_map(grid, tmp_path)
    value, meta = nav2_reads(tmp_path / "floor0.yaml")
    assert meta["mode"] == "trinary"
    assert meta["negate"] == 0

    def at(x, y):
        column, row = ((np.array([x, y]) - meta["origin"][:2]) / meta["resolution"]).astype(int)
        return value[row, column]

    x, _, y0, _, _ = shapes.DOOR
    assert at(2.0, 3.0) == 0, "open floor"
    assert at(x - 0.099, y0 / 2) == 100, "the face of the wall"
    assert at(-0.04, -0.04) == -1, "outside"
    assert 100 in (at(0.89, 1.5), at(0.91, 1.5)), "the side of a box, which lies between cells"


def test_the_map_is_not_inflated(grid, tmp_path):
    write_ros_map(grid, tmp_path)
    value, _ = nav2_reads(tmp_path / "floor0.yaml")
    floor = grid.floors[0]
    assert (value[floor.walkable] == 0).all()
    assert (value == 0).sum() > 1.05 * floor.walkable.sum()


def test_only_the_three_grey_levels_of_the_trinary_writer_are_used(grid, tmp_path):
    write_ros_map(grid, tmp_path)
    pixels = (tmp_path / "floor0.pgm").read_bytes().split(b"\n", 3)[3]
    assert set(pixels) <= {0, 205, 254}


def test_our_reader_agrees_with_the_independent_one(grid, tmp_path):
    write_ros_map(grid, tmp_path)
    value, meta = nav2_reads(tmp_path / "floor0.yaml")
    ours = read_ros_map(tmp_path / "floor0.yaml")
    np.testing.assert_array_equal(ours.cells, value)
    assert ours.resolution == meta["resolution"] == grid.cell
    np.testing.assert_allclose(ours.origin_xy, grid.origin_xy)


def test_unknown_stays_unknown_only_at_the_threshold_that_is_written(grid, tmp_path):
    # 205 is p = 0.19608: a file that said 0.25 would turn unknown into free.
    write_ros_map(grid, tmp_path)
    assert (nav2_reads(tmp_path / "floor0.yaml")[0] == -1).any()
    assert not (nav2_reads(tmp_path / "floor0.yaml", free=0.25)[0] == -1).any()


def test_a_broken_map_is_named(tmp_path):
    (tmp_path / "m.yaml").write_text("image: missing.pgm\nnegate: 0\n")
    with pytest.raises(CorruptData, match=r"m\.yaml is no ROS map"):
        read_ros_map(tmp_path / "m.yaml")
