"""Weights: pinned hashes, clean failures without a network, pickles only in a child."""

import functools
import http.server
import os
import threading
import time
from pathlib import Path

import pytest

from worldloom.cli.main import main
from worldloom.generator import weights
from worldloom.scene.errors import CorruptData, NotFound, ServerUnreachable, StorageUnwritable

NAME = "tcmonodepth-small"
HERE = Path(__file__).resolve()
PLACES = [
    Path(os.environ.get("WORLDLOOM_WEIGHTS", "/nowhere")) / "tcmonodepth_small.pt.tar",
    HERE.parents[3] / "shared" / "weights" / "tcmonodepth_small.pt.tar",
]


@pytest.fixture(scope="module")
def checkpoint():
    for file in PLACES:
        if file.is_file():
            return file
    pytest.skip("the published TCMonoDepth-small checkpoint is not on this machine")


@pytest.fixture
def mirror(tmp_path):
    """A web server of this machine that serves a folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_catalogue_states_hash_size_licence_and_source():
    for entry in weights.catalogue():
        if not entry.kind:  # Networks are compared tensor by tensor instead.
            assert len(entry.sha256) == len(entry.converted_sha256) == 64
            assert entry.bytes > 0
        assert entry.licence
        assert entry.source.startswith("https://")
        assert entry.url.startswith("https://")
    with pytest.raises(NotFound, match=NAME):
        weights.lookup("no-such-weights")


def test_the_folder_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLOOM_WEIGHTS", str(tmp_path / "named"))
    assert weights.weights_folder(tmp_path / "told") == tmp_path / "told"
    assert weights.weights_folder() == tmp_path / "named"
    monkeypatch.delenv("WORLDLOOM_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.weights_folder() == tmp_path / "worldloom" / "weights"


def test_a_name_that_does_not_resolve_fails_cleanly(tmp_path):
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="worldloom weights convert"):
        weights.get(NAME, tmp_path, url="http://no-such-host.invalid/x", timeout_s=10)
    assert time.monotonic() - start < 10.5
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_is_given_up_at_the_deadline(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        with pytest.raises(ServerUnreachable, match="no end after 2 s"):
            weights.get(NAME, tmp_path, url=url, timeout_s=2)
        assert time.monotonic() - start < 6
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_is_missing_or_too_large_or_other_is_refused(tmp_path, mirror):
    folder, url = mirror
    with pytest.raises(ServerUnreachable, match="404"):
        weights.get(NAME, tmp_path / "w", url=f"{url}/missing")
    (folder / "large").write_bytes(b"x" * 2_000_000)
    with pytest.raises(ServerUnreachable, match="larger than"):
        weights.get(NAME, tmp_path / "w", url=f"{url}/large")
    (folder / "other").write_bytes(b"something else")
    with pytest.raises(CorruptData, match="14 bytes"):
        weights.get(NAME, tmp_path / "w", url=f"{url}/other")
    assert weights.find_weights(NAME, tmp_path / "w") is None


def test_get_fetches_checks_and_converts_once(tmp_path, mirror, checkpoint):
    folder, url = mirror
    (folder / "w.pt.tar").write_bytes(checkpoint.read_bytes())
    seen = []
    file = weights.get(
        NAME, tmp_path / "w", url=f"{url}/w.pt.tar", timeout_s=60,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (914_272, 914_272)
    assert weights.verify(NAME, tmp_path / "w") == file
    again = weights.get(NAME, tmp_path / "w", url="http://no-such-host.invalid/x")
    assert again == file  # It is there: nothing is fetched.
    assert [item.name for item in (tmp_path / "w").iterdir()] == [file.name]


def test_damaged_weights_are_named_by_verify(tmp_path, checkpoint):
    file = weights.convert(NAME, checkpoint, tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptData, match="weights get"):
        weights.verify(NAME, tmp_path)


def test_converting_something_else_is_refused_before_it_is_opened(tmp_path):
    with pytest.raises(NotFound):
        weights.convert(NAME, tmp_path / "missing", tmp_path)
    (tmp_path / "evil").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(CorruptData, match="sha256"):
        weights.convert(NAME, tmp_path / "evil", tmp_path)


def test_an_unwritable_folder_says_which_variable_to_set(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnwritable, match="WORLDLOOM_WEIGHTS"):
        weights.get(NAME, tmp_path / "file" / "sub", url="http://no-such-host.invalid/x")


def test_the_command_lists_and_reports_with_exit_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLDLOOM_WEIGHTS", str(tmp_path))
    assert main(["weights", "list"]) == 0
    assert "absent" in capsys.readouterr().out
    assert main(["weights", "verify", NAME]) == 2
    assert main(["weights", "get", NAME, "--url", "http://no-such-host.invalid/x"]) == 4
    assert "MIT" in capsys.readouterr().out
