"""Bombs, wrong formats and damaged pictures: refused within bounds, and never decoded by us."""

import hashlib
import io
import resource
import time
import zipfile
from pathlib import Path

import hostile_pictures
import numpy as np
import PIL.Image
import pytest
from bridge_fixtures import Server

from worldloom.generator.photo import load_depth, load_photo
from worldloom.scene.errors import InvalidCapture, InvalidDepth, InvalidPhoto
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, WorldRequest

REFUSED, ODD = hostile_pictures.refused(), hostile_pictures.odd()
LONGEST_S = 45
"""More than the 20 s of processor time that a decoder may use, on a busy machine."""
GROWTH_MB = 64
ENGINE = ("--target", "worldloom.generator.pipeline:make_world", "--describe",
          "worldloom.generator.engines:describe", "--engine", "preview")  # fmt: skip


def write(folder, data, name="p.png"):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.fixture
def no_decoder_here(monkeypatch):
    """Whatever would decode something in this process fails the test."""

    def caught(*args, **kwargs):
        raise AssertionError("something was decoded outside the child")

    for place, name in (
        (PIL.Image, "open"), (PIL.Image, "frombytes"), (PIL.Image.Image, "load"), (np, "load"),
        (np.lib.format, "read_array"), (zipfile, "ZipFile"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, caught)


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_picture_is_refused_in_words(name, tmp_path, no_decoder_here):
    file = write(tmp_path, REFUSED[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.monotonic()
    with pytest.raises(InvalidPhoto) as caught:
        load_photo(file)
    assert time.monotonic() - began < LONGEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before < GROWTH_MB
    assert 10 < len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_costs_no_more_than_the_child_may_use(name, tmp_path, no_decoder_here):
    file = write(tmp_path, ODD[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.monotonic()
    try:
        found = load_photo(file)
    except InvalidPhoto:
        found = None
    assert time.monotonic() - began < LONGEST_S
    assert found is None or found.rgb.shape[2] == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before < GROWTH_MB


def test_a_good_photo_is_decoded_elsewhere_too(tmp_path, no_decoder_here):
    data = hostile_pictures.png(200, 150)
    assert load_photo(write(tmp_path, data)).rgb.shape == (150, 200, 3)


def bomb_npy(megabytes=4000):
    """An npz whose array is a thousand times as large as the file."""
    out = io.BytesIO()
    head = io.BytesIO()
    shape = (1000, megabytes * 250)
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", head.getvalue() + bytes(50 << 20))
    return out.getvalue()


def test_hostile_depth_maps_are_refused_and_never_decoded_here(tmp_path, monkeypatch, request):
    photo = load_photo(write(tmp_path, hostile_pictures.png(200, 150)))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    hostile = {
        "bomb.npz": bomb_npy(), "pickle.npy": pickled.getvalue(), "cut.npy": b"\x93NUMPY\1\0",
        "gif.png": REFUSED["a still GIF"], "bomb.png": REFUSED["196 Mpx in 24 kB"],
        "noise.exr": b"v/1\1" + REFUSED["noise"],
    }  # fmt: skip
    files = [write(tmp_path, data, name) for name, data in hostile.items()]
    request.getfixturevalue("no_decoder_here")
    for file in files:
        with pytest.raises(InvalidDepth):
            load_depth(file, photo=photo)


def test_hostile_captures_are_refused_and_never_decoded_here(tmp_path, request):
    from worldloom.generator.capture.archive import open_archive

    cameras = io.BytesIO()
    np.savez(cameras, c2w=np.eye(4)[None], K=np.eye(3)[None])
    known = {"cameras.npz": cameras.getvalue()}
    hostile = {
        "bomb": known | {"frames/00000.png": REFUSED["196 Mpx in 24 kB"]},
        "gif": known | {"frames/00000.png": REFUSED["a still GIF"]},
        "outside": known | {"../../evil.png": b""},
        "pickle": {"frames/00000.png": hostile_pictures.png(200, 150), "cameras.npz": b"\x80\x04."},
        "noise": None,
    }  # fmt: skip
    files = []
    for name, members in hostile.items():
        file = tmp_path / f"{name}.zip"
        if members is None:
            file.write_bytes(REFUSED["noise"])
        else:
            with zipfile.ZipFile(file, "w") as archive:
                for path, data in members.items():
                    archive.writestr(path, data)
        files.append(file)
    request.getfixturevalue("no_decoder_here")
    for file in files:
        with pytest.raises(InvalidCapture):
            open_archive(file)


def peak_mb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            found += [int(entry.name)] if parent == pid else []
    return found


def test_a_server_refuses_hostile_photos_and_neither_it_nor_its_worker_decodes_them(
    tmp_path, tools
):
    server = Server(tmp_path / "store", extra=ENGINE)
    try:
        with server.client() as client:
            workers = {}
            for number, name in enumerate(
                ("FITS", "196 Mpx in 24 kB", "half a JPEG", "an animated GIF")
            ):
                file = write(tmp_path, REFUSED[name], f"{number}.png")
                digest = hashlib.sha256(REFUSED[name]).hexdigest()
                photo = InputRef("photo", digest, len(REFUSED[name]), "png")
                request = WorldRequest("preview", preset("dolly", frames=81), photo=photo)
                end = tools.end_of(client, client.submit(request, {"photo": file}).name)
                assert end.state == "failed"
                assert end.error_code in ("invalid-photo", "photo-too-large"), name
                for pid in children(server.process.pid):
                    workers.setdefault(pid, peak_mb(pid))
            for pid in set(workers) & set(children(server.process.pid)):
                # 196 Mpx are 588 MB of pixels.
                assert peak_mb(pid) - workers[pid] < 300
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "cygrpc" in maps
        assert not any(name in maps for name in ("PIL/", "_imaging", "libtorch", "OpenEXR"))
    finally:
        code, _, err = server.end()
    assert code == 0, err


def test_the_server_never_unpickles(tmp_path):
    """Weights that are pickles are refused by name; nothing in the server's half can load one."""
    import re

    import worldloom.bridge

    words = re.compile(r"\b(pickle|torch\.load|marshal|shelve|allow_pickle=True|eval\(|exec\()")
    folder = Path(worldloom.bridge.__file__).parent
    found = [f"{file.name}: {hit[0]}" for file in sorted(folder.glob("*.py"))
             if (hit := words.search(file.read_text()))]  # fmt: skip
    assert found == []
