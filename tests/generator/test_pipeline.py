"""The whole arrow on a small photo: revisions that open, resumption, extension, cancellation."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from worldloom.generator import pipeline
from worldloom.generator.engines import load_engine
from worldloom.generator.pipeline import make_world
from worldloom.generator.truth.photos import ten_photos
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import EngineFailed, InvalidRequest, JobCancelled
from worldloom.scene.events import Artifact, Preview, Progress
from worldloom.scene.manifest import Manifest
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, OutputOptions, ScaleHint, WorldRequest
from worldloom.scene.worldfolder import check_files, open_world


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A truth render of a room as a PNG: a photo whose world is known."""
    rgb = np.asarray(ten_photos()[4].rgb)
    file = tmp_path_factory.mktemp("photo") / "room.png"
    Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8)).save(file)
    return file


def request_for(photo, path, **changes):
    data = photo.read_bytes()
    fields = {
        "engine": "preview",
        "path": path,
        "photo": InputRef("photo", hashlib.sha256(data).hexdigest(), len(data), "png"),
        "quality": "draft",
        "scale": ScaleHint(camera_height_m=1.2),
        "output": OutputOptions(collider_triangles=20_000),
    }
    return WorldRequest(**(fields | changes))


def run(request, photo, work, *, resume=False, cancelled=lambda: False, on_event=None, **options):
    events = []

    def emit(event):
        events.append(event)
        if on_event is not None:
            on_event(event)

    inputs = {"photo": photo, **options.pop("inputs", {})}
    work.mkdir(exist_ok=True)
    manifest = make_world(
        request, inputs=inputs, work=work, resume=resume, emit=emit, cancelled=cancelled, **options
    )
    return manifest, events


@pytest.fixture(scope="module")
def made(photo, tmp_path_factory):
    """A finished world of two chunks, and what was told while it was made."""
    from pxr import Usd

    work = tmp_path_factory.mktemp("made")
    opened = []

    def open_each_revision(event):
        if isinstance(event, Artifact) and event.kind == "manifest":
            manifest = Manifest.from_bytes(event.file.read_bytes())
            assert check_files(work / "world", manifest, hashes=False) == []
            stage = Usd.Stage.Open(str(work / "world" / "world.usda"))
            kinds = {str(prim.GetTypeName()) for prim in stage.Traverse()}
            opened.append((manifest.chunks, kinds))

    request = request_for(photo, preset("pull-back", distance=1.0, pan=20, frames=161))
    manifest, events = run(request, photo, work, on_event=open_each_revision)
    return request, work, manifest, events, opened


def test_every_revision_opens_as_a_stage_with_splats_and_a_collider(made):
    _, _, _, _, opened = made
    assert [chunks for chunks, _ in opened] == [0, 1, 2]
    assert all({"ParticleField3DGaussianSplat", "Mesh"} <= kinds for _, kinds in opened)


def test_the_finished_world_is_whole_and_says_what_it_is(made):
    request, work, manifest, _, _ = made
    assert manifest.complete
    assert manifest.frames == 161
    assert manifest.world_id == request.hash()
    assert check_files(work / "world", manifest) == []
    assert any("made up" in notice for notice in manifest.notices)
    assert json.loads((work / "world" / "scale.json").read_text())["status"] == "calibrated"


def test_the_first_camera_stands_level_above_the_origin_and_the_floor_is_at_zero(made):
    _, work, _, _, _ = made
    cameras = Cameras.load(work / "world" / "cameras.npz")
    assert cameras.n == 161
    assert cameras.centres[0] == pytest.approx([0, 0, 1.2], abs=0.05)
    assert abs(cameras.c2w[0, 2, 0]) < 0.1  # hardly any roll
    frames = np.load(work / "world" / "depth" / "keyframes.npz")
    assert list(frames["frame_id"]) == list(range(0, 161, 8))


def test_progress_rises_and_previews_come(made):
    _, _, _, events, _ = made
    done = [e.done for e in events if isinstance(e, Progress) and e.stage == "generate"]
    assert done == sorted(done)
    assert done[-1] == 160
    assert any(isinstance(e, Preview) for e in events)


def test_no_surface_gets_its_splats_twice(made):
    _, _, manifest, _, _ = made
    counts = [sum(e.count for e in manifest.live("splats") if e.chunk == k) for k in range(3)]
    pixels = 416 * 312
    assert 0.1 * pixels < counts[0] < 0.3 * pixels  # the photo itself, merged
    assert counts[1] + counts[2] < 1.5 * pixels  # a splat per pixel of 20 keyframes: 20 x pixels


def test_a_job_that_was_stopped_goes_on_at_its_last_chunk_with_the_same_bytes(
    made, photo, tmp_path
):
    request, _, manifest, _, _ = made
    seen = {"manifests": 0}

    def count(event):
        if isinstance(event, Artifact) and event.kind == "manifest":
            seen["manifests"] += 1

    with pytest.raises(JobCancelled):
        run(request, photo, tmp_path, on_event=count, cancelled=lambda: seen["manifests"] >= 2)
    assert open_world(tmp_path / "world").chunks == 1
    again, events = run(request, photo, tmp_path, resume=True)
    assert again.to_bytes() == manifest.to_bytes()
    generated = [e.done for e in events if isinstance(e, Progress) and e.stage == "generate"]
    assert min(generated) > 80  # the first chunk was not made again
    told = {e.path_in_world for e in events if isinstance(e, Artifact)}
    assert {entry.path for entry in again.files} <= told


@pytest.fixture
def beside(monkeypatch):
    """The preview engine as if a GPU made its frames: surfaces come beside them."""

    def load(name):
        return replace(load_engine(name), surface_beside=True)

    monkeypatch.setattr(pipeline, "load_engine", load)


def test_a_surface_made_beside_the_next_chunk_is_not_lost_with_it(made, photo, tmp_path, beside):
    request, _, manifest, _, _ = made
    seen = {"frame": 0}

    def watch(event):
        if isinstance(event, Preview):
            seen["frame"] = event.frame

    # The second chunk is cancelled while the surface of the first is under way, or just done.
    inputs = {"on_event": watch, "cancelled": lambda: seen["frame"] > 90}
    with pytest.raises(JobCancelled):
        run(request, photo, tmp_path, **inputs)
    assert open_world(tmp_path / "world").chunks == 1
    again, events = run(request, photo, tmp_path, resume=True)
    assert again.to_bytes() == manifest.to_bytes()
    splats = [i for i, e in enumerate(events) if isinstance(e, Artifact) and e.kind == "splats"]
    meshes = [i for i, e in enumerate(events) if isinstance(e, Artifact) and e.kind == "collision"]
    second = [i for i in splats if events[i].chunk == 2]
    assert max(second) < max(meshes)


def test_a_surface_that_cannot_be_made_ends_the_job(photo, tmp_path, beside, monkeypatch):
    whole = pipeline.build_surface

    def broken(growth, recipe):
        if len(growth.keyframes) > 1:
            raise EngineFailed("the surface is broken")
        return whole(growth, recipe)

    monkeypatch.setattr(pipeline, "build_surface", broken)
    with pytest.raises(EngineFailed, match="broken"):
        run(request_for(photo, preset("dolly", distance=0.4, frames=81)), photo, tmp_path)
    assert open_world(tmp_path / "world").chunks == 0


def test_a_world_can_be_extended_from_its_last_camera_and_reverted(made, photo, tmp_path):
    _request, work, manifest, _, _ = made
    longer = request_for(photo, preset("dolly", distance=0.4, frames=81))
    extended, _ = run(
        longer, photo, tmp_path / "e", kind="extend", inputs={"parent": work}
    )
    assert extended.world_id == manifest.world_id
    assert extended.parents == (longer.hash(),)
    assert (extended.chunks, extended.frames) == (3, 161 + 80)
    assert check_files(tmp_path / "e" / "world", extended) == []
    cameras = Cameras.load(tmp_path / "e" / "world" / "cameras.npz")
    moved = np.linalg.norm(cameras.centres[-1] - cameras.centres[160])
    assert moved == pytest.approx(0.4, abs=0.02)
    assert list(cameras.frame_id) == list(range(241))
    reverted, _ = run(
        longer, photo, tmp_path / "r", kind="revert", inputs={"parent": tmp_path / "e"}
    )
    assert reverted.frames == 161
    assert {e.path for e in reverted.live("splats")} == {e.path for e in manifest.live("splats")}


def test_the_seed_alone_comes_quickly_and_opens(photo, tmp_path):
    request = request_for(photo, preset("dolly"))
    manifest, _ = run(request, photo, tmp_path, kind="seed")
    assert (manifest.chunks, manifest.frames) == (0, 1)
    assert manifest.live("points")


def test_an_unknown_engine_is_refused_by_name(photo, tmp_path):
    request = request_for(photo, preset("dolly"), engine="lyra9")
    with pytest.raises(InvalidRequest, match=r"lyra9.*preview"):
        run(request, photo, tmp_path)


def test_a_format_that_cannot_be_written_is_refused_before_the_work(photo, tmp_path, monkeypatch):
    def absent():
        raise EngineFailed("OpenVDB is not installed")

    monkeypatch.setattr("worldloom.generator.pipeline.openvdb_module", absent)
    with pytest.raises(EngineFailed, match="OpenVDB"):
        run(
            request_for(photo, preset("dolly"), output=OutputOptions(formats=("vdb",))),
            photo, tmp_path,
        )  # fmt: skip
    assert not (tmp_path / "world").exists()


def test_a_parent_without_checkpoints_cannot_be_extended(photo, tmp_path):
    request = request_for(photo, preset("dolly"))
    with pytest.raises(EngineFailed, match="checkpoint is no longer"):
        run(request, photo, tmp_path / "w", kind="extend", inputs={"parent": tmp_path})


def test_a_path_of_odd_length_is_resampled_and_said(photo, tmp_path):
    request = request_for(photo, preset("dolly").resampled(50))
    _, events = run(request, photo, tmp_path, kind="seed")
    assert any("resampled to 81" in getattr(event, "text", "") for event in events)


def test_a_job_that_needs_no_network_never_loads_torch():
    code = (
        "import sys, worldloom.generator.pipeline, worldloom.generator.video.opening;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
