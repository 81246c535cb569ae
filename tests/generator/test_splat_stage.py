"""Splats of a world on their way into files: refined ones supersede, and stand where they stood."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldloom.generator.align.field import FieldGrid
from worldloom.generator.align.solve import Correction
from worldloom.generator.align.state import Placement
from worldloom.generator.checkpoint import Growth
from worldloom.generator.layers.read import read_placed_splats
from worldloom.generator.placement import move_chunks
from worldloom.generator.publish import Publisher
from worldloom.generator.splat_stage import refine_files, write_splats
from worldloom.generator.splats.build import chunk_splats
from worldloom.generator.splats.covered import Covered
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.scene.errors import JobCancelled
from worldloom.scene.manifest import live_entries
from worldloom.scene.splats import Splats

SIZE = (104, 60)
SHIFT = np.array([0.2, 0.0, -0.1])


def frames() -> list[Frame]:
    place = scene("room")
    cameras = walkthrough(place, 161, size=SIZE)
    out = []
    for i in (0, 8):
        view = render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=1)
        origin = (view.depth > 0).astype(np.uint8)
        out.append(Frame(i, view.rgb, view.depth, origin, cameras.c2w[i], cameras.K[i]))
    return out


@pytest.fixture
def growth(tmp_path: Path) -> tuple[Growth, Publisher]:
    """Two chunks of one frame each; the second chunk has moved since it was lifted."""
    shown = frames()
    publisher = Publisher(tmp_path, lambda event: None)
    covered = Covered()
    knots = np.zeros((2, FieldGrid(*SIZE).knots))
    now = np.stack([frame.c2w for frame in shown])
    then = now.copy()
    then[1, :3, 3] -= SHIFT
    placement = Placement(
        Correction(now, knots), Correction(then, knots), np.array([0, 1]), np.ones((2, 3))
    )
    world = Growth(
        volume=LevelVolume(LevelPlan(0.05)), covered=covered, cameras=None, generated=shown,
        keyframes=shown, files=[], tiles={}, placement=placement,
    )  # fmt: skip
    lifted = [shown[0], replace(shown[1], c2w=then[1])]
    for chunk, frame in enumerate(lifted):
        write_splats(world, chunk_splats([frame], covered=covered), publisher, chunk)
    world.files = move_chunks(world.files, shown, placement)
    return world, publisher


def refine(growth: Growth, publisher: Publisher, **changes) -> None:
    options = {"steps": 2, "seed": 0, "on_step": lambda *_: None, "cancelled": lambda: False}
    refine_files(growth, publisher, **(options | changes))


def placed(growth: Growth, publisher: Publisher) -> Splats:
    live = [e for e in live_entries(growth.files) if e.kind == "splats"]
    return Splats.concat([read_placed_splats(publisher.world, entry) for entry in live])


def test_refined_files_supersede_each_of_the_old_ones(growth) -> None:
    world, publisher = growth
    before = {(e.kind, e.chunk): e for e in live_entries(world.files)}
    told: list[tuple[int, int]] = []
    refine(world, publisher, on_step=lambda done, total: told.append((done, total)))
    after = {(e.kind, e.chunk): e for e in live_entries(world.files)}
    assert after.keys() == before.keys()
    assert told == [(1, 2), (2, 2)]
    for key, entry in after.items():
        assert entry.supersedes == before[key].path
        assert entry.count == before[key].count
        assert (publisher.world / entry.path).is_file()


def test_a_moved_chunk_is_refined_where_it_stands_and_is_not_moved_twice(growth) -> None:
    world, publisher = growth
    moved = [e.move for e in live_entries(world.files) if e.kind == "splats"]
    assert moved[0] is None
    assert np.array(moved[1])[:3, 3] == pytest.approx(SHIFT, abs=1e-5)
    before = placed(world, publisher)
    refine(world, publisher)
    after = placed(world, publisher)
    assert np.median(np.linalg.norm(after.means - before.means, axis=1)) < 0.02
    # What a later chunk does to the files: nothing has moved since.
    world.files = move_chunks(world.files, world.generated, world.placement)
    assert [e.move for e in live_entries(world.files)] == [None] * 4
    assert (placed(world, publisher).means == after.means).all()


def test_a_cancelled_refinement_changes_nothing(growth) -> None:
    world, publisher = growth
    files = list(world.files)
    with pytest.raises(JobCancelled):
        refine(world, publisher, cancelled=lambda: True)
    assert world.files == files
