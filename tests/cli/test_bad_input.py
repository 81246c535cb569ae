"""Bad input at the command line: the right exit code, and a text with what, value and remedy.

One test a line of the list that users run into. Those that need a server share a real one.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from worldloom.cli.localserver import local_server
from worldloom.cli.main import main
from worldloom.scene.path import CameraPath, Keyframe
from worldloom.scene.path_presets import preset
from worldloom.scene.worldfolder import check_files, open_world

QUICK = ["--quality", "draft", "--camera-height", "1.2", "--path", "dolly:distance=0.3"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A plain picture with a floor and a wall."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (240, 320, 3))
    image[150:] += 60
    file = tmp_path_factory.mktemp("photo") / "good.png"
    Image.fromarray(image.astype(np.uint8)).save(file)
    return file


def call(*arguments):
    """Exit code and everything that was printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue() + err.getvalue()


def generate(photo, out, server, *more):
    arguments = ["generate", photo, "--out", out, *more]
    return call(*arguments, *(["--server", server.address] if server else []))


def test_a_photo_that_is_not_there(tmp_path):
    code, text = generate(tmp_path / "none.png", tmp_path / "w", None)
    assert code == 2
    assert "no photo at" in text
    assert "PNG, JPEG or WebP" in text


def test_an_empty_photo(tmp_path):
    (tmp_path / "p.png").write_bytes(b"")
    code, text = generate(tmp_path / "p.png", tmp_path / "w", None)
    assert code == 2
    assert "0 bytes" in text


def test_not_an_image(tmp_path, server):
    (tmp_path / "p.png").write_bytes(b"this is a letter" * 100)
    code, text = generate(tmp_path / "p.png", tmp_path / "w", server, *QUICK)
    assert code == 2
    assert "PNG" in text


def test_a_bomb_of_200_megapixels_is_refused_from_its_header(tmp_path, server):
    Image.fromarray(np.zeros((14_143, 14_143), bool)).save(tmp_path / "bomb.png")
    code, text = generate(tmp_path / "bomb.png", tmp_path / "w", server, *QUICK)
    assert code == 2
    assert "14143 x 14143" in text
    assert "50" in text


def test_an_animated_gif(tmp_path, server):
    frames = [Image.new("P", (80, 80), i) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, text = generate(tmp_path / "a.gif", tmp_path / "w", server, *QUICK)
    assert code == 2
    assert "PNG" in text


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "RGBA", "rotated"])
def test_unusual_but_good_photos_make_worlds(tmp_path, server, good, mode):
    image = Image.open(good)
    file = tmp_path / "p.png"
    if mode == "CMYK":
        file = tmp_path / "p.jpg"
        image.convert("CMYK").save(file)
    elif mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file)
    elif mode == "RGBA":
        image.convert("RGBA").save(file)
    else:
        file = tmp_path / "p.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        image.rotate(90, expand=True).save(file, exif=exif)
    code, text = generate(file, tmp_path / "w", server, *QUICK)
    assert code == 0, text
    assert open_world(tmp_path / "w").complete
    size = np.load(tmp_path / "w" / "cameras.npz")["size"][0]
    assert size[0] > size[1]  # upright again


def path_file(tmp_path, *keys, frames=81):
    file = tmp_path / "path.json"
    text = json.dumps(CameraPath(tuple(keys), frames).to_json())
    file.write_text(text)
    return file


START = Keyframe(0, (0, 0, 0))
BAD_PATHS = {
    "NaN": (START, Keyframe(1, (float("nan"), 0, 0))),
    "not a rotation": (START, Keyframe(1, (0, 0, 0), (2, 0, 0, 0))),
    "at least 2": (START,),
    "teleport": (START, Keyframe(1, (900, 0, 0))),
}


@pytest.mark.parametrize("text", sorted(BAD_PATHS))
def test_a_bad_path(tmp_path, server, good, text):
    file = path_file(tmp_path, *BAD_PATHS[text])
    code, said = generate(good, tmp_path / "w", server, "--path", file)
    assert code == 2
    assert text in said


def test_a_path_of_a_million_poses(tmp_path, server, good):
    file = path_file(tmp_path, START, Keyframe(1, (1, 0, 0)), frames=1_000_000)
    code, text = generate(good, tmp_path / "w", server, "--path", file)
    assert code == 2
    assert "limit is 8001" in text


def test_an_unknown_camera_preset_and_an_unknown_engine(tmp_path, server, good):
    code, text = generate(good, tmp_path / "w", server, "--path", "fly")
    assert (code, "pull-back" in text) == (2, True)
    code, text = generate(good, tmp_path / "w", server, "--engine", "lyra9")
    assert (code, "preview" in text) == (2, True)


@pytest.mark.parametrize("kind", ["size", "nan", "zeros"])
def test_a_bad_depth_map(tmp_path, server, good, kind):
    depth = {
        "size": np.ones((10, 10), np.float32),
        "nan": np.full((240, 320), np.nan, np.float32),
        "zeros": np.zeros((240, 320), np.float32),
    }[kind]
    np.save(tmp_path / "d.npy", depth)
    code, text = generate(
        good, tmp_path / "w", server, *QUICK, "--depth", tmp_path / "d.npy"
    )
    assert code == 2
    assert "depth" in text.lower()


def test_an_unwritable_output_folder(tmp_path, good):
    (tmp_path / "file").write_bytes(b"")
    code, text = generate(good, tmp_path / "file" / "w", None)
    assert code == 6
    assert "choose another folder" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_output_folder_keeps_what_is_there(tmp_path, server, good):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting")
    try:
        code, text = generate(good, small / "w", server, *QUICK)
        assert code == 6, text
        assert "free some space and run the same command again" in text.lower()
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        code, text = generate(good, small / "w", server, *QUICK)
        assert code == 0, text
        assert check_files(small / "w", open_world(small / "w")) == []
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = call("serve", "--bind", f"127.0.0.1:{port}", "--store", tmp_path / "s")
    assert code == 4
    assert str(port) in text


def test_no_server_there(tmp_path, good):
    code, text = call("generate", good, "--out", tmp_path / "w", "--server", "127.0.0.1:9")
    assert code == 4
    assert "worldloom serve" in text


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "worldloom.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_chunk(folder, chunk, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if (folder / "manifest.json").is_file() and open_world(folder).chunks >= chunk:
            return
        time.sleep(0.05)
    raise AssertionError(f"no chunk {chunk} in {folder}")


LONG = ["--quality", "draft", "--camera-height", "1.2", "--frames", "241", "--path",
        "pull-back:distance=1,pan=15"]  # fmt: skip


def test_ctrl_c_leaves_a_world_that_opens_and_the_same_command_goes_on(tmp_path, good):
    out = tmp_path / "w"
    process = command("generate", good, "--out", out, *LONG)
    wait_for_chunk(out, 1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "same command" in said
    manifest = open_world(out)
    assert not manifest.complete
    assert check_files(out, manifest) == []
    code, text = generate(good, out, None, *LONG)
    assert code == 0, text
    assert open_world(out).complete
    assert check_files(out, open_world(out)) == []


def test_a_server_that_goes_away_midway_leaves_what_came(tmp_path, good):
    store, out = tmp_path / "store", tmp_path / "w"
    with local_server(store) as running:
        process = command("generate", good, "--out", out, "--server", running.address, *LONG)
        wait_for_chunk(out, 1)
        os.kill(running.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 4, said
    assert check_files(out, open_world(out)) == []


def test_presets_can_be_listed_by_a_wrong_name():
    assert preset("dolly").frames == 81
    code, text = call("generatee")
    assert code == 2
    assert "generate" in text
