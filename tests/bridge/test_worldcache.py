"""Artifacts -> a world folder, with a client that hands out files of this disk."""

import hashlib
import shutil

import pytest

from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.worldcache import take
from worldloom.scene.errors import CorruptData, InvalidRequest
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfolder import check_files, open_world


class Shelf:
    """Stands for a client: gives the bytes of a blob, and counts."""

    def __init__(self):
        self.blobs, self.fetched = {}, []

    def put(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def fetch(self, ref, file, *, info=None):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == ref.sha256:
            return file
        self.fetched.append(ref.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.blobs[ref.sha256])
        return file


@pytest.fixture
def shelf():
    return Shelf()


def revision(shelf, number, *, world="w", splats=(), parents=(), text="", complete=False):
    """The artifacts of one revision: immutable files, rewritten files, the manifest last."""
    refs, entries = [], []
    for chunk, data in enumerate(splats):
        digest = shelf.put(data)
        entries.append(FileEntry(f"splats/{digest}.usdc", digest, len(data), "splats", chunk))
        refs.append(ArtifactRef(chunk, "splats", f"splats/{digest}.usdc", digest, len(data)))
    scale = f"scale {number} {text}".encode()
    digest = shelf.put(scale)
    entries.append(FileEntry("scale.json", digest, len(scale), "scale", number))
    refs.append(ArtifactRef(number, "scale", "scale.json", digest, len(scale)))
    manifest = Manifest(world, {}, {}, {}, number, 1 + 80 * number, tuple(entries),
                        parents=parents, complete=complete)  # fmt: skip
    data = manifest.to_bytes()
    refs.append(ArtifactRef(number, "manifest", "manifest.json", shelf.put(data), len(data)))
    return refs


def apply(shelf, folder, refs):
    for ref in refs:
        take(shelf, ref, folder)


def test_a_revision_appears_only_with_its_manifest(shelf, tmp_path):
    refs = revision(shelf, 0, splats=[b"a"])
    apply(shelf, tmp_path, refs[:-1])
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "scale.json").exists()
    take(shelf, refs[-1], tmp_path)
    assert open_world(tmp_path).chunks == 0
    assert (tmp_path / "world.usda").is_file()
    assert check_files(tmp_path, open_world(tmp_path)) == []


def test_a_manifest_whose_files_did_not_come_is_refused(shelf, tmp_path):
    for gone in (0, 1):
        refs = revision(shelf, 0, splats=[b"a"])
        del refs[gone]
        with pytest.raises(CorruptData, match=r"revision 0 is incomplete: .*missing"):
            apply(shelf, tmp_path, refs)
        assert not (tmp_path / "manifest.json").exists()
        shutil.rmtree(tmp_path / "splats", ignore_errors=True)
        shutil.rmtree(tmp_path / ".incoming")


def test_replaying_an_older_revision_changes_nothing(shelf, tmp_path):
    first = revision(shelf, 0, splats=[b"a"])
    second = revision(shelf, 1, splats=[b"a", b"b"])
    apply(shelf, tmp_path, first + second)
    before = (tmp_path / "manifest.json").read_bytes()
    shelf.fetched.clear()
    apply(shelf, tmp_path, first + second)
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert (tmp_path / "scale.json").read_bytes() == b"scale 1 "
    assert set(shelf.fetched) == {"manifest.json"}


def test_an_extension_and_a_revert_come_after_their_parents(shelf, tmp_path):
    grown = revision(shelf, 1, splats=[b"a", b"b"])
    extended = revision(shelf, 2, splats=[b"a", b"b", b"c"], parents=("p",))
    reverted = revision(shelf, 1, splats=[b"a", b"b"], parents=("p", "q"), text="again")
    apply(shelf, tmp_path, grown + extended)
    assert open_world(tmp_path).chunks == 2
    apply(shelf, tmp_path, reverted)
    assert open_world(tmp_path).chunks == 1
    assert (tmp_path / "scale.json").read_bytes() == b"scale 1 again"
    apply(shelf, tmp_path, grown + extended)
    assert open_world(tmp_path).parents == ("p", "q")


def test_the_same_request_made_otherwise_replaces_the_world(shelf, tmp_path):
    """A newer version of the code may give another result for the same request."""
    apply(shelf, tmp_path, revision(shelf, 1, splats=[b"a", b"b"], complete=True))
    apply(shelf, tmp_path, revision(shelf, 0, splats=[b"A"]))
    assert open_world(tmp_path).chunks == 0
    apply(shelf, tmp_path, revision(shelf, 1, splats=[b"A", b"B"], complete=True))
    assert {e.path for e in open_world(tmp_path).files if e.kind == "splats"} == {
        f"splats/{hashlib.sha256(data).hexdigest()}.usdc" for data in (b"A", b"B")
    }
    assert check_files(tmp_path, open_world(tmp_path)) == []


def test_another_world_never_touches_the_folder(shelf, tmp_path):
    apply(shelf, tmp_path, revision(shelf, 0, splats=[b"a"]))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = revision(shelf, 3, world="other", splats=[b"x"])
    with pytest.raises(InvalidRequest, match=r"holds world w, .*Choose another folder"):
        apply(shelf, tmp_path, other)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_preview_is_no_part_of_the_world_and_a_program_never_is(shelf, tmp_path):
    refs = revision(shelf, 0, splats=[b"a"])
    digest = shelf.put(b"preview")
    preview = ArtifactRef(0, "preview_splats", f"preview/{digest}.usdc", digest, 7)
    apply(shelf, tmp_path, [preview, *refs])
    assert "preview" not in {path.name for path in tmp_path.iterdir()}
    assert preview.path not in shelf.fetched
    with pytest.raises(CorruptData, match="none lies there"):
        take(shelf, ArtifactRef(0, "later", "tools/run.py", digest, 7), tmp_path)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "", ".", ".job", ".store/x", "a\0"]
)
def test_a_server_cannot_write_outside_the_world(shelf, tmp_path, path):
    digest = shelf.put(b"x")
    for kind in ("splats", "scale", "run", "manifest"):
        with pytest.raises(CorruptData, match="outside the world"):
            take(shelf, ArtifactRef(0, kind, path, digest, 1), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_manifest_that_names_files_outside_the_world_is_refused(shelf, tmp_path):
    refs = revision(shelf, 0)
    data = shelf.blobs[refs[-1].sha256].replace(b"scale.json", b"../../../x")
    bad = ArtifactRef(0, "manifest", "manifest.json", shelf.put(data), len(data))
    with pytest.raises(CorruptData, match="not inside the world"):
        take(shelf, bad, tmp_path)
