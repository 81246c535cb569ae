"""What a power loss needs: bytes, then the name, then the folder are on the disk before a row."""

import os
from contextlib import closing

import pytest

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.journal import Journal
from worldloom.bridge.owners import Owners
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import file_sha256, write_whole


@pytest.fixture
def trace(monkeypatch):
    """What is synced, renamed and journalled, in order: (what, path)."""
    seen = []

    def watch(name, describe):
        real = getattr(os, name)

        def call(*args, **kwargs):
            seen.append((name, describe(*args)))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    watch("fsync", lambda handle: os.readlink(f"/proc/self/fd/{handle}"))
    watch("replace", lambda source, target: str(target))
    real = Owners.add
    monkeypatch.setattr(
        Owners, "add", lambda self, *args: (seen.append(("row", args[1])), real(self, *args))[1]
    )
    return seen


def order(seen, *wanted):
    """Positions of these steps; each must be there."""
    return [seen.index(step) for step in wanted]


def test_an_upload_is_on_the_disk_before_the_journal_names_it(tmp_path, trace):
    blobs = Blobs(tmp_path / "blobs", Limits())
    (tmp_path / "file").write_bytes(b"content")
    name = file_sha256(tmp_path / "file")
    with closing(Journal(tmp_path / "journal.sqlite", whole=blobs.has)) as journal:
        upload = blobs.append("me", blobs.begin("me", name, 7, 0), b"content")
        (part,) = (tmp_path / "blobs" / "partial").iterdir()
        blobs.commit_upload("me", upload)
        journal.own_blob("me", name, 7)
    blob = blobs.path(name)
    steps = [("fsync", str(part)), ("replace", str(blob)), ("fsync", str(blob.parent)),
             ("row", name)]  # fmt: skip
    assert order(trace, *steps) == sorted(order(trace, *steps))
    # The folder of the first blob that begins like this one is new, and so is its name.
    new = ("fsync", str(tmp_path / "blobs"))
    assert trace.index(new) < trace.index(("row", name))


@pytest.mark.parametrize("by_link", [True, False])
def test_a_result_is_on_the_disk_before_the_journal_names_it(tmp_path, trace, by_link):
    blobs = Blobs(tmp_path / "blobs", Limits())
    file = tmp_path / "made"
    file.write_bytes(b"content")
    if by_link:
        file = file.rename(tmp_path / f"{file_sha256(file)}.usdc")
    name, _ = blobs.adopt(file)
    blob = blobs.path(name)
    synced = [index for index, (what, path) in enumerate(trace)
              if what == "fsync" and "adopt-" in path]  # fmt: skip
    renamed, folder = order(trace, ("replace", str(blob)), ("fsync", str(blob.parent)))
    assert synced[0] < renamed < folder


def test_an_offset_that_is_told_is_on_the_disk(tmp_path, trace):
    blobs = Blobs(tmp_path / "blobs", Limits())
    blobs.append("me", blobs.begin("me", "a" * 64, 10, 0), b"begun")
    (part,) = (tmp_path / "blobs" / "partial").iterdir()
    assert ("fsync", str(part)) not in trace
    assert blobs.offset("me", "a" * 64) == 5
    assert ("fsync", str(part)) in trace
    assert ("fsync", str(part.parent)) in trace


def test_a_revision_file_is_on_the_disk_before_it_has_its_name(tmp_path, trace):
    write_whole(tmp_path / "manifest.json", b"{}")
    (what, part), renamed, folder = trace
    assert (what, part.startswith(str(tmp_path / "manifest.json."))) == ("fsync", True)
    assert renamed == ("replace", str(tmp_path / "manifest.json"))
    assert folder == ("fsync", str(tmp_path))
