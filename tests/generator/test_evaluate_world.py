"""Whole worlds: measured with their reasons, reported with their data, refused in words."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.generator.small_worlds import SIZE, make_small_world
from worldloom.generator.evaluate import poses
from worldloom.generator.evaluate.geometry import camera_measures, reprojection_measures
from worldloom.generator.evaluate.measures import KINDS
from worldloom.generator.evaluate.networks import Networks
from worldloom.generator.evaluate.protocol import Options, evaluate
from worldloom.generator.evaluate.published import published_tables
from worldloom.generator.evaluate.reference import TruthReference, real_reference
from worldloom.generator.evaluate.report import PAPER_COLUMNS, to_json, to_markdown
from worldloom.generator.evaluate.sheet import contact_sheet
from worldloom.generator.evaluate.world import find_worlds, open_evaluated, spread
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_small_world(tmp_path_factory.mktemp("worlds") / "small")


@pytest.fixture(scope="module")
def found(folder):
    world = open_evaluated(folder)
    return evaluate(world, Options(reference=TruthReference(world, "corridor")))


@pytest.fixture(scope="module")
def values(found):
    return {measure.key: measure for measure in found.measures}


def write_frames(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


def test_held_out_frames_are_those_that_no_keyframe_is(folder):
    world = open_evaluated(folder)
    assert world.video_id.tolist() == list(range(1, 17))
    assert world.held_out(0) == [4, 12]
    assert (world.size, world.pixel) == (SIZE, 2.0)
    frames = world.frames([4, 12])
    assert all(frame.shape == (60, 104, 3) for frame in frames.values())
    # The video's frame 4 is what the scene looks like from camera 4, not from its neighbours.
    wanted = TruthReference(world, "corridor").pictures([3, 4, 5])
    error = {n: np.abs(frames[4] / 255 - picture).mean() for n, picture in wanted.items()}
    assert min(error, key=error.get) == 4


def test_a_truth_world_has_good_numbers_where_it_is_exact(values):
    assert values["video_psnr"].value > 25
    assert 15 < values["splat_psnr"].value < 60
    assert values["splat_covered"].value > 80
    assert values["splat_covered_psnr"].value >= values["splat_psnr"].value
    assert values["reprojection_exact"].value == pytest.approx(0, abs=1e-3)
    assert values["depth_steady"].value < 0.1
    assert values["collider_f"].value > 0.9
    assert values["seconds_per_chunk"].value == 40


def test_what_is_not_measured_says_why(values):
    assert set(values) == set(KINDS) - {"drop_rest", "drop_below"}
    assert "needs 176" in values["video_ms_ssim"].reason
    assert "alexnet-owt-7be5be79.pth" in values["splat_lpips_p_alex"].reason
    assert "pt_inception" in values["video_fid"].reason
    assert "no chunk of 80 frames" in values["style"].reason
    assert "--scores FILE" in values["subjective"].reason
    assert "100 by construction" in values["camera"].reason
    assert "never comes back" in values["revisit_psnr"].reason
    for measure in values.values():
        assert (measure.value is None) == bool(measure.reason)
        assert bool(measure.data) == (measure.value is not None)


def test_poses_that_are_off_are_found(tmp_path):
    world = open_evaluated(make_small_world(tmp_path / "off", turn_deg=1.0))
    found = camera_measures(world, "corridor") + reprojection_measures(world, "corridor")
    values = {m.key: m.value for m in found}
    assert values["camera_rotation"] == pytest.approx(2 / 3, rel=1e-3)
    assert 90 < values["camera"] < 99
    assert values["reprojection_exact"] > 0.3


def test_poses_are_estimated_where_depth_anything_is_present(folder, tmp_path, monkeypatch):
    """The network is tiny and random: the score means nothing, the way to it is walked."""
    from worldloom.generator.depth.da3 import single
    from worldloom.generator.depth.da3.load import random_network

    monkeypatch.setattr(poses, "VIEWS_MAX", 3)
    monkeypatch.setattr(single, "read_network", lambda name, file: random_network("tiny"))
    (tmp_path / "da3_small.safetensors").touch()
    measures = camera_measures(open_evaluated(folder), "corridor", tmp_path)
    assert all(np.isfinite(m.value) for m in measures)
    assert "estimated from the video by da3-small, unconditioned, 3 frames" in measures[0].data


def test_networks_that_are_there_are_used(folder, tmp_path):
    from safetensors.torch import save_file

    from worldloom.generator.evaluate.lpips import Lpips

    metric = Lpips("alex")
    save_file(metric.net.state_dict(), tmp_path / "alexnet-owt-7be5be79.safetensors")
    save_file(metric.heads.state_dict(), tmp_path / "alex.safetensors")
    world = open_evaluated(folder)
    found = evaluate(world, Options(networks=Networks(tmp_path)))
    values = {m.key: m for m in found.measures}
    assert values["splat_lpips_p_alex"].value is not None
    assert values["splat_lpips_p_vgg"].value is None
    assert "needs a reference" in values["video_psnr"].reason
    assert "da3-small" in values["camera"].reason
    with pytest.raises(NotFound, match="there is no folder"):
        evaluate(world, Options(networks=Networks(tmp_path / "nowhere")))


def test_every_cell_of_the_report_is_labelled_and_the_kinds_never_mix(found):
    record = json.loads(json.dumps(to_json([found])))
    assert record["schema"] == "worldloom.bench-world/1"
    for cell in record["worlds"][0]["measures"].values():
        assert cell["kind"] in ("measured", "unmeasured")
        assert cell["data"] if cell["kind"] == "measured" else cell["reason"]
    for table in record["published"]:
        for row in table["rows"].values():
            assert {cell["kind"] for cell in row.values()} == {"published"}
            assert all(cell["source"] for cell in row.values())
    text = to_markdown([found])
    measured, published = text.split("# Published by others (not measured here)")
    assert "| published |" not in measured
    assert "| measured |" not in published
    assert "| small |" in measured
    assert "Lyra 2.0" not in measured
    assert set(PAPER_COLUMNS.values()) <= set(KINDS)


def test_published_numbers_are_those_of_the_specification():
    tables = {table.key: table for table in published_tables()}
    video = tables["video"]
    assert video.rows["Lyra 2.0"] == (0.384, 0.552, 51.33, 43.35, 85.07, 63.87, 0.069)
    assert video.rows["GEN3C"] == (0.350, 0.589, 79.07, 21.75, 75.54, 70.91, 0.054)
    assert {"CaM", "SPMem", "VMem", "HY-WorldPlay", "Lyra 2.0 DMD (4 steps)"} < set(video.rows)
    assert video.rows["HY-WorldPlay"][5] is None
    assert tables["splats"].rows["Lyra 2.0 full"] == (0.372, 0.629, 72.47, 18.80)
    assert tables["revisits"].rows["WorldCrafter"] == (0.166, 0.255, 18.02, 0.517)
    assert all(table.source and table.data for table in tables.values())


def test_the_contact_sheet_shows_video_render_and_difference(found):
    import io

    image = np.asarray(Image.open(io.BytesIO(contact_sheet(found))))
    width, height = SIZE
    assert image.shape == (3 * 24 + 2 * height, 3 * width + 24, 3)
    top = 24 + 18
    video = image[top : top + height, 6 : 6 + width]
    assert np.abs(video.astype(int) - found.video[4]).max() <= 1
    render = image[top : top + height, 12 + width : 12 + 2 * width]
    shown = image[top : top + height, 18 + 2 * width : 18 + 3 * width]
    wanted = np.minimum(4 * np.abs(video.astype(int) - render.astype(int)), 255)
    assert np.abs(shown.astype(int) - wanted).max() <= 4


def test_a_real_walk_is_matched_by_relative_time(folder, tmp_path):
    world = open_evaluated(folder)
    exact = TruthReference(world, "corridor").pictures(range(17))
    frames = [(255 * exact[n] + 0.5).astype(np.uint8) for n in range(17)]
    whole = real_reference(world, write_frames(tmp_path / "whole", frames))
    assert all(np.array_equal(whole.pictures([n])[n], frames[n]) for n in (1, 8, 16))
    half = real_reference(world, write_frames(tmp_path / "half" / "frames", frames[::2]).parent)
    assert sorted(half.pictures(range(1, 17))) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert np.array_equal(half.pictures([6])[6], frames[6])
    found = evaluate(world, Options(reference=half, views=0))
    values = {m.key: m for m in found.measures}
    assert values["video_psnr"].value > 25
    assert values["video_psnr"].data == "real frames of half (9); 8 frames, one by one"
    assert values["truth_psnr"].data == "real frames of half (9); 2 held-out frames"


def test_real_frames_are_cropped_and_resized_to_the_view(folder, tmp_path):
    world = open_evaluated(folder)
    large = [np.full((125, 208, 3), 90 + n, np.uint8) for n in range(2)]
    reference = real_reference(world, write_frames(tmp_path / "large", large))
    assert reference.pictures([16])[16].shape == (60, 104, 3)


def test_a_posed_data_set_is_a_real_walk_too(folder, tmp_path):
    write_frames(tmp_path / "set" / "images", [np.zeros((60, 104, 3), np.uint8)] * 3)
    frames = [
        {"file_path": f"images/{n:05d}.png", "transform_matrix": np.eye(4).tolist()}
        for n in range(3)
    ]
    data = {"w": 104, "h": 60, "fl_x": 90.0, "frames": frames}
    (tmp_path / "set" / "transforms.json").write_text(json.dumps(data))
    assert len(real_reference(open_evaluated(folder), tmp_path / "set").files) == 3


def test_folders_that_are_no_walk_are_refused(folder, tmp_path):
    world = open_evaluated(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match="holds 0 pictures"):
        real_reference(world, tmp_path / "empty")
    with pytest.raises(NotFound, match="there is no folder"):
        real_reference(world, tmp_path / "nowhere")
    frame = np.zeros((60, 104, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="holds 1 pictures"):
        real_reference(world, write_frames(tmp_path / "one", [frame]))
    mixed = real_reference(world, write_frames(tmp_path / "mixed", [frame, frame[:50]]))
    with pytest.raises(InvalidRequest, match="real frames must have one size"):
        mixed.pictures([0, 16])
    square = real_reference(world, write_frames(tmp_path / "square", [frame[:, :60]] * 2))
    with pytest.raises(InvalidRequest, match="shapes differ by 42%"):
        square.pictures([0, 16])
    (tmp_path / "one" / "00001.png").write_bytes(b"no picture")
    with pytest.raises(InvalidRequest, match="is no picture that can be decoded"):
        real_reference(world, tmp_path / "one").pictures([16])


def test_a_world_without_video_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"has no video .* Make the whole world"):
        open_evaluated(make_small_world(tmp_path / "seed", video=False))


def test_a_black_video_is_refused(tmp_path):
    world = open_evaluated(make_small_world(tmp_path / "black", black=True))
    with pytest.raises(InvalidRequest, match=r"all 2 held-out frames of .* are black"):
        evaluate(world, Options())


def test_files_that_contradict_each_other_are_told(folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    world = open_evaluated(broken)
    fewer = world.cameras.select(slice(0, 9))
    (broken / "cameras.npz").write_bytes(fewer.to_npz())
    with pytest.raises(CorruptData, match=r"hold 16 frames and cameras.npz 9 cameras"):
        open_evaluated(broken)
    (broken / "cameras.npz").write_bytes(world.cameras.to_npz())
    whole = (folder / "depth" / "keyframes.npz").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"text"):
        (broken / "depth" / "keyframes.npz").write_bytes(damaged)
        with pytest.raises(CorruptData, match="cannot be read"):
            open_evaluated(broken)
    (folder / "video" / "a.mp4").rename(tmp_path / "a.mp4")
    try:
        with pytest.raises(CorruptData, match="is missing; fetch the world again"):
            open_evaluated(folder).frames([4])
    finally:
        (tmp_path / "a.mp4").rename(folder / "video" / "a.mp4")


def test_worlds_are_found_in_a_folder_of_worlds(folder, tmp_path):
    assert find_worlds(folder) == [folder]
    assert find_worlds(folder.parent) == [folder]
    with pytest.raises(NotFound, match="holds no world"):
        find_worlds(tmp_path)
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 0) == [1, 2]
