"""Engine `lyra2-tiny` from the command line, through a real server, to a world on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldloom.cli.main import main
from worldloom.generator.engines import load_engine
from worldloom.generator.pipeline import make_world
from worldloom.generator.truth.photos import ten_photos
from worldloom.generator.video.lyra.opening import frame_size
from worldloom.scene.errors import EngineFailed, JobCancelled, NotFound
from worldloom.scene.events import Log, Progress
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, OutputOptions, ScaleHint, WorldRequest
from worldloom.scene.worldfolder import check_files, open_world

FRAMES = 161


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    rgb = np.asarray(ten_photos()[4].rgb)
    file = tmp_path_factory.mktemp("photo") / "room.png"
    Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def served(photo, tmp_path_factory) -> tuple[int, Path]:
    """A world of one chunk, made by `worldloom generate` and the server that it starts."""
    out = tmp_path_factory.mktemp("served") / "world"
    code = main(
        ["generate", str(photo), "--engine", "lyra2-tiny", "--path", "dolly:distance=1",
         "--frames", "81", "--quality", "draft", "--camera-height", "1.2", "--prompt", "a room",
         "--out", str(out)]
    )  # fmt: skip
    return code, out


@pytest.mark.timeout(600)
def test_a_job_through_the_real_server_becomes_a_whole_world(served) -> None:
    code, out = served
    assert code == 0
    manifest = open_world(out)
    assert manifest.complete
    assert manifest.frames == 81
    assert manifest.engine["preset"] == "lyra2-tiny"
    assert check_files(out, manifest) == []
    kinds = {entry.kind for entry in manifest.files}
    assert {"splats", "collision", "video"} <= kinds
    frames = np.load(out / "depth" / "keyframes.npz")
    assert list(frames["frame_id"]) == list(range(0, 81, 8))
    assert (frames["depth"] > 0).mean() > 0.5


@pytest.mark.timeout(600)
def test_its_world_opens_and_stands_on_its_floor(served) -> None:
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(served[1] / "world.usda"))
    kinds = {str(prim.GetTypeName()) for prim in stage.Traverse()}
    assert {"ParticleField3DGaussianSplat", "Mesh"} <= kinds
    low = [
        UsdGeom.Mesh(prim).GetPointsAttr().Get() for prim in stage.Traverse()
        if prim.GetTypeName() == "Mesh" and prim.HasAPI("PhysicsCollisionAPI")
    ]  # fmt: skip
    heights = np.concatenate([np.asarray(points)[:, 2] for points in low])
    assert np.percentile(heights, 5) == pytest.approx(0, abs=0.05)


def request_for(photo: Path, **changes) -> WorldRequest:
    data = photo.read_bytes()
    fields = {
        "engine": "lyra2-tiny",
        "path": preset("dolly", distance=1.0, frames=FRAMES),
        "photo": InputRef("photo", hashlib.sha256(data).hexdigest(), len(data), "png"),
        "quality": "draft",
        "prompts": {0: "a room", 81: "a corridor"},
        "scale": ScaleHint(camera_height_m=1.2),
        "output": OutputOptions(collider_triangles=20_000),
    }
    return WorldRequest(**(fields | changes))


def run(request, photo, work, *, resume=False, stop=None, kind="generate", inputs=None):
    events = []

    def cancelled() -> bool:
        return stop is not None and stop(events)

    work.mkdir(exist_ok=True)
    manifest = make_world(
        request, inputs={"photo": photo, **(inputs or {})}, work=work, resume=resume,
        emit=events.append, cancelled=cancelled, kind=kind,
    )  # fmt: skip
    return manifest, events


@pytest.fixture(scope="module")
def whole(photo, tmp_path_factory):
    work = tmp_path_factory.mktemp("whole")
    return (*run(request_for(photo), photo, work), work)


@pytest.mark.timeout(600)
def test_progress_tells_of_every_evaluation_and_of_meaningless_pictures(whole) -> None:
    _, events, _ = whole
    steps = [(e.done, e.total) for e in events if isinstance(e, Progress) and e.stage == "sample"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    assert any("mean nothing" in e.text for e in events if isinstance(e, Log))


@pytest.mark.timeout(600)
def test_a_job_stopped_while_sampling_resumes_to_the_same_manifest(photo, whole, tmp_path) -> None:
    def in_second_chunk(events) -> bool:
        return sum(isinstance(e, Progress) and e.stage == "sample" for e in events) >= 6

    with pytest.raises(JobCancelled):
        run(request_for(photo), photo, tmp_path / "w", stop=in_second_chunk)
    assert (tmp_path / "w" / "checkpoint" / "0001" / "model" / "state.json").is_file()
    manifest, events = run(request_for(photo), photo, tmp_path / "w", resume=True)
    steps = sum(isinstance(e, Progress) and e.stage == "sample" for e in events)
    assert steps == 4  # The second chunk alone.
    assert manifest == whole[0]


@pytest.mark.timeout(600)
def test_a_reverted_extension_leaves_the_world_as_it_was(photo, whole, tmp_path) -> None:
    manifest, _, work = whole
    longer = request_for(photo, path=preset("dolly", distance=0.3, frames=81), seed=3)
    extended, _ = run(longer, photo, tmp_path / "e", kind="extend", inputs={"parent": work})
    assert extended.chunks == 3
    back, _ = run(longer, photo, tmp_path / "r", kind="revert", inputs={"parent": tmp_path / "e"})
    assert back.chunks == 2
    assert {e.path for e in back.files} == {e.path for e in manifest.files}
    kept = [w / "checkpoint" / "0002" / "model" / "state.safetensors" for w in
            (work, tmp_path / "r")]  # fmt: skip
    assert kept[0].read_bytes() == kept[1].read_bytes()


@pytest.mark.timeout(600)
def test_a_lost_state_is_told(photo, whole, tmp_path) -> None:
    work = tmp_path / "w"
    shutil.copytree(whole[2], work)
    shutil.rmtree(work / "checkpoint" / "0002" / "model")
    longer = request_for(photo, path=preset("dolly", distance=0.3, frames=81))
    with pytest.raises(EngineFailed, match="checkpoint"):
        run(longer, photo, tmp_path / "e", kind="extend", inputs={"parent": work})


def test_frames_have_the_shape_that_the_network_was_trained_at() -> None:
    assert frame_size(832) == (832, 480)
    assert all(side % 16 == 0 for side in frame_size(96))


@pytest.mark.parametrize("name", ["lyra2", "lyra2-dmd"])
def test_an_engine_without_its_weights_names_them_all(name, photo, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLDLOOM_WEIGHTS", str(tmp_path / "none"))
    engine = load_engine(name)
    assert engine.research_only
    request = request_for(photo, engine=name)
    with pytest.raises(NotFound) as told:
        engine.open(request, {"photo": photo})
    assert "lyra2-video" in str(told.value)
    assert "worldloom weights convert" in str(told.value)
    assert ("lyra2-distilled" in str(told.value)) == (name == "lyra2-dmd")


def test_the_engines_are_listed_with_their_terms() -> None:
    from worldloom.generator.engines import describe

    listed = {entry["name"]: entry for entry in describe()}
    assert {"lyra2", "lyra2-dmd", "lyra2-tiny", "preview"} <= set(listed)
    assert listed["lyra2"]["research_only"]
    assert not listed["lyra2-tiny"]["research_only"]
    assert json.dumps(listed)
