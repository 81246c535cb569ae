"""The Python interface, and every snippet of its page, against a real server."""

import re
from pathlib import Path

import pytest

import worldloom.bridge
from worldloom.bridge import Job, Log, Progress, WorldloomError, connect
from worldloom.scene.errors import (
    Conflict,
    EngineFailed,
    InvalidCameraPath,
    InvalidPhoto,
    InvalidRequest,
    JobCancelled,
    NotFound,
    ServerUnreachable,
)
from worldloom.scene.path_presets import preset
from worldloom.scene.worldfolder import check_files

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SLOW = '{"slow": 60}'


@pytest.fixture
def remote(server):
    with connect(server.address) as connection:
        yield connection


def test_the_public_names_are_few_and_documented():
    assert len(worldloom.bridge.__all__) <= 10
    for name in worldloom.bridge.__all__:
        assert getattr(worldloom.bridge, name).__doc__
        assert name in dir(worldloom.bridge)
    with pytest.raises(AttributeError, match="no attribute 'wrong'"):
        worldloom.bridge.wrong  # noqa: B018


def test_a_photo_becomes_a_world_in_a_folder(remote, photo, tmp_path):
    job = remote.generate(photo, path="dolly:distance=1", frames=161, seed=501, quality="draft")
    seen = []
    world = job.fetch(tmp_path / "w", on_event=seen.append)
    assert (world.frames, world.complete, job.state) == (161, True, "done")
    assert check_files(tmp_path / "w", world) == []
    assert any(isinstance(event, Progress) for event in seen)


def test_the_same_request_is_the_same_job(remote, photo):
    job = remote.generate(photo, seed=502)
    assert remote.generate(photo, seed=502).name == job.name
    assert remote.job(job.name).wait().state == "done"
    assert job.name in {found.name for found in remote.jobs(states=["done"], limit=None)}


def test_everything_that_may_be_said_arrives(remote, photo):
    job = remote.generate(
        photo, path=preset("orbit", frames=81), engine="preview", depth=photo, priority=3,
        camera_height_m=1.2, prompt="", seed=503, formats=["ply"],
    )  # fmt: skip
    log = next(event for event in job.watch() if isinstance(event, Log))
    assert "depth,photo" in log.text
    assert (job.info.engine, job.info.priority) == ("preview", 3)


def test_a_job_is_cancelled_and_deleted(remote, photo):
    job = remote.generate(photo, prompt=SLOW, seed=504)
    with pytest.raises(Conflict, match="cancel it first"):
        job.delete()
    assert job.cancel().info.name == job.name
    with pytest.raises(JobCancelled):
        job.wait()
    assert "cancelled" in repr(job)
    job.delete()
    with pytest.raises(NotFound):
        job.refresh()


def test_a_job_that_fails_raises_its_own_error(remote, photo, tmp_path):
    job = remote.generate(photo, prompt='{"fail_at": 1}', seed=505)
    for call in (job.wait, lambda: job.fetch(tmp_path / "w")):
        with pytest.raises(EngineFailed, match="ask it not to"):
            call()


def test_what_was_made_so_far_is_fetched_without_waiting(remote, photo, tmp_path, tools):
    job = remote.generate(photo, prompt='{"slow": 1.5}', frames=801, seed=506)
    tools.until_chunk(remote._client, job.name, 1)
    world = job.fetch(tmp_path / "w", so_far=True)
    assert not world.complete
    assert check_files(tmp_path / "w", world) == []
    job.cancel()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"path": "nowhere"}, InvalidCameraPath),
        ({"engine": "lyra9"}, InvalidRequest),
        ({"photo": "missing.jpg"}, InvalidPhoto),
        ({"quality": "best"}, InvalidRequest),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(remote, photo, options, error):
    remote._client._stub.WriteBlob = None
    with pytest.raises(error):
        remote.generate(**{"photo": photo, **options})


def test_a_server_is_named_by_its_address_or_its_store(server, remote, tmp_path):
    with connect(store=server.store) as same:
        assert same.info.version == remote.info.version
        assert server.address in repr(same)
    with pytest.raises(InvalidRequest, match="no server is named"):
        connect()
    with pytest.raises(InvalidRequest, match="no server runs on"):
        connect(store=tmp_path)
    with pytest.raises(ServerUnreachable, match="worldloom serve"):
        connect("127.0.0.1:9")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        connect(server.address, token_file=tmp_path / "missing")


def test_a_job_says_what_it_is(remote, photo):
    job = remote.generate(photo, seed=507)
    assert isinstance(job, Job)
    assert repr(job.wait()) == f"Job({job.name}, toy, done)"
    assert issubclass(EngineFailed, WorldloomError)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_of_the_page_run(server, photo, tmp_path, monkeypatch, capsys, number):
    assert len(SNIPPETS) == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    connect(server.address).generate("photo.jpg", seed=600 + number).wait()
    text = SNIPPETS[number].replace("127.0.0.1:50051", server.address)
    exec(compile(text, f"docs/client.md snippet {number}", "exec"), {})
    said = capsys.readouterr().out
    assert "error" not in said
    assert number == 3 or said
