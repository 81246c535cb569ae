"""The first bytes of a chunk: a few widened splats everywhere, which are no part of the world."""

from types import SimpleNamespace

import numpy as np
import pytest

from worldloom.generator.layers.read import read_splat_layer
from worldloom.generator.publish import Publisher
from worldloom.generator.splat_stage import PREVIEW_FROM, PREVIEW_SHARE, cover_preview, write_splats
from worldloom.scene.splats import Splats
from worldloom.scene.trust import vet_layer_file


@pytest.fixture(scope="module")
def splats():
    """A floor of random splats, as many as make a preview worth its while."""
    random = np.random.default_rng(3)
    n = PREVIEW_FROM
    means = random.uniform((-5, -5, 0), (5, 5, 0.1), (n, 3))
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    return Splats.from_rgb(
        means, np.full((n, 3), 0.02), quats, np.full(n, 0.9), random.uniform(size=(n, 3))
    )


def write(splats, folder):
    """Files of a chunk, and the artifacts in the order in which they were told."""
    told, growth = [], SimpleNamespace(files=[])
    write_splats(growth, splats, Publisher(folder, told.append), 2)
    return growth.files, told


def test_a_preview_is_told_before_the_chunk_and_is_no_part_of_the_world(splats, tmp_path):
    files, told = write(splats, tmp_path)
    first = told[0]
    assert (first.kind, first.chunk) == ("preview_splats", 2)
    assert first.path_in_world.startswith("preview/")
    assert [event.kind for event in told[1:]] == ["splats", "points"]
    assert all(entry.kind != "preview_splats" for entry in files)
    assert not (tmp_path / "world" / "preview").exists()
    assert vet_layer_file(first.file) == []
    assert first.file.stat().st_size < told[1].file.stat().st_size / 20


def test_a_preview_covers_everything_with_wider_splats(splats, tmp_path):
    _, told = write(splats, tmp_path)
    preview = read_splat_layer(told[0].file)
    assert preview.n == round(PREVIEW_SHARE * splats.n)
    assert np.allclose(preview.scales, 0.02 * PREVIEW_SHARE**-0.5, rtol=1e-5)
    # Cells of a metre of the floor: none is empty, and none has much more than its share.
    counts, _, _ = np.histogram2d(preview.means[:, 0], preview.means[:, 1], 10, [[-5, 5], [-5, 5]])
    assert counts.min() >= preview.n / 100 / 2
    assert counts.max() <= preview.n / 100 * 2


def test_a_small_chunk_has_none(splats, tmp_path):
    few = splats.select(slice(0, PREVIEW_FROM - 1))
    assert cover_preview(few) is None
    _, told = write(few, tmp_path)
    assert [event.kind for event in told] == ["splats", "points"]


def test_the_files_of_the_world_do_not_depend_on_the_preview(splats, tmp_path, monkeypatch):
    with_preview, _ = write(splats, tmp_path / "a")
    monkeypatch.setattr("worldloom.generator.splat_stage.PREVIEW_FROM", 10**9)
    without, _ = write(splats, tmp_path / "b")
    assert with_preview == without
