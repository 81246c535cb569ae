"""Files of a server on the same host: linked where they are ours, copied or sent where not."""

import hashlib
import os
from dataclasses import replace

import pytest

from worldloom.bridge import samehost
from worldloom.bridge.messages import ArtifactRef, ServerInfo
from worldloom.bridge.samehost import shares_disk, take_from_store
from worldloom.scene.limits import Limits

CONTENT = b"splats" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
REF = ArtifactRef(0, "splats", "splats/x.usdc", DIGEST, len(CONTENT))


@pytest.fixture
def store(tmp_path):
    """A server's store with one blob and a nonce."""
    folder = tmp_path / "store" / "blobs" / DIGEST[:2]
    folder.mkdir(parents=True)
    (folder / DIGEST).write_bytes(CONTENT)
    (folder / DIGEST).chmod(0o444)
    (tmp_path / "store" / "nonce").write_text("n" * 32)
    return tmp_path / "store"


@pytest.fixture
def blob(store):
    return store / "blobs" / DIGEST[:2] / DIGEST


@pytest.fixture
def info(store):
    return ServerInfo("1", (1, 1), (), (), Limits(), str(store), "n" * 32, "toy")


@pytest.fixture
def foreign(monkeypatch):
    """As if the store were another user's that we may read."""
    monkeypatch.setattr(samehost.os, "getuid", lambda: 1 + os.geteuid())


def test_a_file_of_our_own_is_linked_without_being_read(info, blob, tmp_path, monkeypatch):
    monkeypatch.setattr(samehost, "is_whole", None)
    assert take_from_store(info, REF, tmp_path / "part")
    assert (tmp_path / "part").stat().st_ino == blob.stat().st_ino


def test_a_file_of_another_user_is_copied_and_checked(info, blob, tmp_path, foreign):
    assert take_from_store(info, REF, tmp_path / "part")
    assert (tmp_path / "part").stat().st_ino != blob.stat().st_ino
    assert (tmp_path / "part").read_bytes() == CONTENT
    blob.chmod(0o644)
    blob.write_bytes(CONTENT[::-1])
    assert not take_from_store(info, REF, tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("nonce", ["", "n" * 31, "n" * 33, "m" * 32, "\N{SNOWMAN}"])
def test_another_nonce_means_another_host(info, tmp_path, nonce):
    assert shares_disk(info)
    assert not shares_disk(replace(info, nonce=nonce))
    assert not take_from_store(replace(info, nonce=nonce), REF, tmp_path / "part")


@pytest.mark.parametrize("store", ["", "relative", "/dev/null", "a\0b", "/nowhere/at/all"])
def test_a_store_that_is_not_here_means_another_host(info, store):
    assert not shares_disk(replace(info, store=store))


def test_a_file_that_anybody_could_have_changed_is_not_linked(info, blob, tmp_path):
    blob.chmod(0o644)
    assert not take_from_store(info, REF, tmp_path / "part")


def test_a_link_in_the_store_is_not_followed(info, blob, store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    secret.chmod(0o400)
    blob.unlink()
    blob.symlink_to(secret)
    assert not take_from_store(info, REF, tmp_path / "part")
    (store / "nonce").unlink()
    (tmp_path / "nonce").write_text(info.nonce)
    (store / "nonce").symlink_to(tmp_path / "nonce")
    assert not shares_disk(info)


def test_another_size_or_a_digest_that_is_a_path_is_not_taken(info, store, tmp_path):
    (store / "secret").write_bytes(b"x")
    for ref in (replace(REF, bytes=5), replace(REF, sha256="../secret"), replace(REF, sha256="")):
        assert not take_from_store(info, ref, tmp_path / "part")


def test_onto_another_disk_a_file_is_copied(info, blob, tmp_path, monkeypatch):
    def other_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(samehost.os, "link", other_disk)
    assert take_from_store(info, REF, tmp_path / "part")
    assert (tmp_path / "part").stat().st_ino != blob.stat().st_ino
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_what_came_before_of_the_same_file_makes_room_for_the_link(info, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT[:5])
    assert take_from_store(info, REF, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
