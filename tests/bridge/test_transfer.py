"""Blobs over the wire: resumed, damaged, misplaced, too large, cut, linked, and not yours."""

import hashlib
import os
import random
import threading
import zlib
from dataclasses import replace

import grpc
import pytest

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.journal import Journal
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.store import sweep
from worldloom.bridge.transfer import outgoing, part_file
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    ServerUnreachable,
    WrongOffset,
)
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import InputRef

PART = MIB


@pytest.fixture
def content(request):
    """3.5 MB of bytes that no other test sends."""
    return random.Random(request.node.name).randbytes(3_500_000)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "input.png"
    path.write_bytes(content)
    return path


@pytest.fixture
def ref(content):
    return InputRef("photo", hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield rpc.WorldsStub(channel)


@pytest.fixture
def uploaded(client, ref, file, content):
    """A blob that is on the server, as something to fetch."""
    client.upload(ref, file)
    return ArtifactRef(0, "splats", "splats/x.usdc", ref.sha256, ref.bytes)


def parts(content, *, offset=0, size=PART, total=None, name=None):
    """Parts of an upload, as a well-behaved client sends them."""
    name = hashlib.sha256(content).hexdigest() if name is None else name
    for at in range(offset, len(content), size):
        data = content[at : at + size]
        yield pb.Part(
            sha256=name, offset=at, data=data, crc32=zlib.crc32(data),
            total=len(content) if total is None else total,
        )  # fmt: skip


def refusal(call, *args):
    """Status, text and metadata of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        complete(call(*args))
    error = caught.value
    return error.code().name, error.details(), dict(error.trailing_metadata())


def complete(result):
    """Read an answer to its end; a single message is complete already."""
    return result if hasattr(result, "DESCRIPTOR") else list(result)


def durable(stub, content):
    """(bytes, committed) of a blob on the server."""
    stat = stub.StatBlob(pb.BlobRef(sha256=hashlib.sha256(content).hexdigest()))
    return stat.bytes, stat.committed


def test_an_upload_is_whole_and_is_not_sent_twice(client, stub, ref, file, content, monkeypatch):
    client.upload(ref, file)
    assert durable(stub, content) == (len(content), True)
    monkeypatch.setattr(client._stub, "WriteBlob", None)
    client.upload(ref, file)


def test_an_upload_continues_where_it_was_cut(client, stub, ref, file, content, monkeypatch):
    first = list(parts(content))[:2]
    assert stub.WriteBlob(iter(first)).bytes == 2 * PART
    sent = []
    monkeypatch.setattr(
        "worldloom.bridge.blobcalls.outgoing", lambda *a, **k: record(outgoing(*a, **k), sent)
    )
    client.upload(ref, file)
    assert sent[0] == 2 * PART
    assert durable(stub, content) == (len(content), True)


def record(messages, offsets):
    for message in messages:
        offsets.append(message.offset)
        yield message


def test_an_upload_that_was_whole_but_not_committed_is_completed(
    client, stub, ref, file, content, server
):
    mark = hashlib.sha256(b"local").hexdigest()[:16]
    (server.store / "blobs" / "partial" / f"{mark}-{ref.sha256}").write_bytes(content)
    assert durable(stub, content) == (len(content), False)
    client.upload(ref, file)
    assert durable(stub, content) == (len(content), True)


def test_a_wrong_offset_changes_nothing_and_the_right_one_is_told(stub, content):
    stub.WriteBlob(iter(list(parts(content))[:1]))
    code, text, metadata = refusal(stub.WriteBlob, parts(content, offset=2 * PART))
    assert code == "ABORTED"
    assert metadata["error-code"] == "wrong-offset"
    assert int(metadata["offset"]) == PART
    assert f"continues at byte {PART}, not {2 * PART}" in text
    assert durable(stub, content) == (PART, False)


def test_a_gap_between_parts_is_refused(stub, content):
    some = list(parts(content))
    code, _, metadata = refusal(stub.WriteBlob, iter([some[0], some[2]]))
    assert (code, int(metadata["offset"])) == ("ABORTED", PART)
    assert durable(stub, content) == (PART, False)


def test_a_damaged_part_is_refused_and_those_before_it_are_kept(
    client, stub, ref, file, content
):
    some = list(parts(content))
    some[2].data = some[2].data[:-1] + b"!"
    code, text, metadata = refusal(stub.WriteBlob, iter(some))
    assert (code, metadata["error-code"]) == ("DATA_LOSS", "corrupt-data")
    assert f"part at byte {2 * PART} was damaged" in text
    assert durable(stub, content) == (2 * PART, False)
    client.upload(ref, file)
    assert durable(stub, content) == (len(content), True)


def test_an_upload_that_is_not_what_its_name_says_is_thrown_away(stub, content):
    name = hashlib.sha256(content).hexdigest()
    code, text, _ = refusal(stub.WriteBlob, parts(content[::-1], name=name))
    assert code == "DATA_LOSS"
    assert "Send it again" in text
    assert durable(stub, content) == (0, False)


def test_a_file_that_changes_while_it_is_sent_is_named(client, ref, file):
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(CorruptData, match="changed while it was sent"):
        client.upload(ref, file)


def test_more_bytes_than_declared_are_refused(stub, content):
    code, text, _ = refusal(stub.WriteBlob, parts(content, total=PART))
    assert code == "DATA_LOSS"
    assert f"more than the {PART} that it declared" in text
    assert durable(stub, content)[1] is False


def test_a_blob_above_the_limit_is_refused_before_it_is_sent(stub, content):
    limit = Limits().blob_bytes
    code, text, _ = refusal(stub.WriteBlob, parts(content, total=limit + 1))
    assert code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert str(limit) in text or "MiB left" in text


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "0" * 63, "", "a" * 100_000])
def test_a_name_that_is_no_digest_is_refused(stub, content, name, server):
    code, text, _ = refusal(stub.WriteBlob, parts(content, name=name))
    assert code == "INVALID_ARGUMENT"
    assert "64 lower-case hex digits" in text
    assert refusal(stub.StatBlob, pb.BlobRef(sha256=name))[0] == "INVALID_ARGUMENT"
    assert refusal(stub.ReadBlob, pb.ReadBlobRequest(sha256=name))[0] == "NOT_FOUND"


def test_an_upload_without_parts_is_refused(stub):
    code, text, _ = refusal(stub.WriteBlob, iter([]))
    assert (code, "first part must name the blob" in text) == ("INVALID_ARGUMENT", True)


def test_two_uploads_of_one_blob_at_the_same_time_give_one_blob(server, ref, file, stub, content):
    failures = []

    def send():
        try:
            with WorldsClient(server.address) as client:
                client.upload(ref, file)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert durable(stub, content) == (len(content), True)


def test_a_blob_that_is_not_yours_is_not_there(stub, server, tmp_path, content):
    file = tmp_path / "secret"
    file.write_bytes(content)
    digest, _ = Blobs(server.store / "blobs", Limits()).adopt(file)
    code, text, _ = refusal(stub.ReadBlob, pb.ReadBlobRequest(sha256=digest))
    assert (code, "there is no blob" in text) == ("NOT_FOUND", True)
    assert durable(stub, content) == (0, False)


def test_a_download_continues_at_its_offset(client, uploaded, content, tmp_path, monkeypatch):
    target = tmp_path / "out" / "x.usdc"
    target.parent.mkdir()
    part_file(uploaded, target).write_bytes(content[:1_234_567])
    asked = []
    read = client._stub.ReadBlob
    monkeypatch.setattr(client._stub, "ReadBlob", lambda r: (asked.append(r.offset), read(r))[1])
    client.fetch(uploaded, target)
    assert target.read_bytes() == content
    assert asked == [1_234_567]
    assert [p.name for p in target.parent.iterdir()] == ["x.usdc"]


def test_a_damaged_half_download_is_fetched_again(client, uploaded, content, tmp_path):
    target = tmp_path / "x.usdc"
    part_file(uploaded, target).write_bytes(b"!" + content[1:2_000_000])
    client.fetch(uploaded, target)
    assert target.read_bytes() == content


def test_a_part_of_a_blob_can_be_read(stub, uploaded, content):
    request = pb.ReadBlobRequest(sha256=uploaded.sha256, offset=10, length=2 * PART)
    messages = list(stub.ReadBlob(request))
    assert b"".join(m.data for m in messages) == content[10 : 10 + 2 * PART]
    assert [m.offset for m in messages] == [10, 10 + PART]
    assert {m.total for m in messages} == {len(content)}
    behind = pb.ReadBlobRequest(sha256=uploaded.sha256, offset=len(content) + 1)
    assert refusal(stub.ReadBlob, behind)[0] == "INVALID_ARGUMENT"


def test_a_blob_that_is_damaged_in_the_store_is_never_accepted(
    client, uploaded, server, tmp_path
):
    blob = server.store / "blobs" / uploaded.sha256[:2] / uploaded.sha256
    assert blob.stat().st_mode & 0o222 == 0
    os.chmod(blob, 0o644)
    with blob.open("r+b") as handle:
        handle.write(b"!")
    for info in (None, client.server_info()):
        with pytest.raises(CorruptData, match="worldloom check"):
            client.fetch(uploaded, tmp_path / "x.usdc", info=info)
    assert list(tmp_path.glob("x.usdc*")) == []


def test_a_blob_that_vanished_from_the_store_can_be_sent_again(client, uploaded, ref, file, server):
    (server.store / "blobs" / ref.sha256[:2] / ref.sha256).unlink()
    with pytest.raises(NotFound):
        client.fetch(uploaded, file.with_name("out"))
    client.upload(ref, file)
    assert client.fetch(uploaded, file.with_name("out")).read_bytes() == file.read_bytes()


def test_on_the_same_host_a_file_is_linked(client, uploaded, server, tmp_path):
    info = client.server_info()
    linked = client.fetch(uploaded, tmp_path / "a", info=info)
    copied = client.fetch(uploaded, tmp_path / "b", info=replace(info, nonce="of another host"))
    blob = server.store / "blobs" / uploaded.sha256[:2] / uploaded.sha256
    assert linked.stat().st_ino == blob.stat().st_ino
    assert copied.stat().st_ino != blob.stat().st_ino
    assert copied.read_bytes() == linked.read_bytes()


def test_a_cut_connection_costs_nothing_that_had_arrived(
    server, uploaded, content, tmp_path, cutting_proxy
):
    proxy = cutting_proxy(server.address, after=1_500_000, times=2)
    target, asked = tmp_path / "x", []
    with WorldsClient(proxy.address) as client:
        read = client._stub.ReadBlob

        def record(request):
            part = part_file(uploaded, target)
            asked.append((request.offset, part.stat().st_size if part.exists() else 0))
            return read(request)

        client._stub.ReadBlob = record
        client.fetch(uploaded, target)
    assert target.read_bytes() == content
    assert proxy.cuts == 2
    # What the client had is never asked for again. What gRPC had not handed over is lost with its
    # connection: at most all that passed there.
    assert [offset for offset, _ in asked] == sorted(have for _, have in asked)
    assert proxy.sent < len(content) + 2 * (1_500_000 + 65_536) + 65_536


def test_a_cut_upload_goes_on(server, stub, ref, file, content, cutting_proxy):
    proxy = cutting_proxy(server.address, after=1_500_000, times=1, upwards=True)
    with WorldsClient(proxy.address) as client:
        client.upload(ref, file)
    assert durable(stub, content) == (len(content), True)
    assert proxy.cuts == 1


def test_a_download_from_a_server_that_is_gone_keeps_its_part(uploaded, tmp_path):
    target = tmp_path / "x"
    part_file(uploaded, target).write_bytes(b"begun")
    with (
        WorldsClient("127.0.0.1:9", away_s=0) as client,
        pytest.raises(ServerUnreachable, match="no server answers"),
    ):
        client.fetch(uploaded, target)
    assert part_file(uploaded, target).read_bytes() == b"begun"


def test_an_upload_against_the_store_checks_every_step(tmp_path):
    blobs = Blobs(tmp_path, Limits(blob_bytes=100))
    name = hashlib.sha256(b"abcdef").hexdigest()
    with pytest.raises(InvalidRequest, match="1 to 100 are possible"):
        blobs.begin("me", name, 101, 0)
    upload = blobs.append("me", blobs.begin("me", name, 6, 0), b"abc")
    assert blobs.offset("you", name) == 0
    stale = replace(upload, offset=0)
    with pytest.raises(WrongOffset) as caught:
        blobs.append("me", stale, b"abc")
    assert caught.value.offset == 3
    upload = blobs.append("me", upload, b"def")
    blobs.commit_upload("me", upload)
    blobs.commit_upload("me", upload)  # The second of two streams that ended together.
    assert blobs.read(name, 2, 3) == b"cde"


def test_a_file_that_is_named_by_its_content_becomes_a_blob_by_link(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    file = tmp_path / f"{hashlib.sha256(b'made').hexdigest()}.usdc"
    file.write_bytes(b"made")
    digest, size = blobs.adopt(file)
    assert (digest, size) == (file.stem, 4)
    assert blobs.path(digest).stat().st_ino == file.stat().st_ino
    assert blobs.adopt(file) == (digest, size)
    assert list((tmp_path / "blobs" / "partial").iterdir()) == []


def test_a_file_that_is_written_again_does_not_change_its_blob(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    file = tmp_path / "run.json"
    file.write_bytes(b"first")
    digest, _ = blobs.adopt(file)
    file.write_bytes(b"again")
    assert blobs.read(digest, 0, 5) == b"first"
    assert blobs.adopt(file)[0] != digest
    assert all(blobs.is_sound(name) for name in blobs.names())


def test_the_sweep_takes_only_old_things_that_nobody_knows(tmp_path):
    blobs, journal = Blobs(tmp_path / "blobs", Limits()), Journal(tmp_path / "j")
    digests = []
    for text in ("known", "unknown"):
        (tmp_path / text).write_text(text)
        digests.append(blobs.adopt(tmp_path / text)[0])
    journal.own_blob("me", digests[0], 5)
    name = hashlib.sha256(b"abc").hexdigest()
    blobs.append("me", blobs.begin("me", name, 3, 0), b"ab")
    blobs = Blobs(tmp_path / "blobs", Limits())  # After a restart.
    now = (tmp_path / "known").stat().st_mtime
    assert sweep(tmp_path, journal, blobs, now=now + 3600) == 0
    assert sweep(tmp_path, journal, blobs, now=now + 25 * 3600) == 2
    assert [blobs.has(digest) for digest in digests] == [True, False]
    assert blobs.offset("me", name) == 0
    journal.close()
