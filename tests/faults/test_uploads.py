"""Fault 7: uploads that are damaged, cut short or too long never become a blob."""

import hashlib
import os
import random
import re
import time
import zlib
from contextlib import closing

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.journal import Journal
from worldloom.bridge.store import sweep
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import CorruptData, WrongOffset
from worldloom.scene.limits import Limits
from worldloom.scene.request import InputRef

DAY_S = 24 * 3600
PART = 100_000
CONTENTS = iter(range(10_000))


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield rpc.WorldsStub(channel)


def fresh_content():
    """Bytes that no other example sends."""
    return random.Random(next(CONTENTS)).randbytes(7 * PART // 2)


def parts(content, name, total, *, offset=0):
    for at in range(offset, len(content), PART):
        data = content[at : at + PART]
        yield pb.Part(sha256=name, offset=at, data=data, crc32=zlib.crc32(data), total=total)


def send(stub, messages):
    """Send parts; the status and text of the answer."""
    try:
        return "OK", stub.WriteBlob(iter(messages), timeout=20).bytes
    except grpc.RpcError as error:
        return error.code().name, error.details()


def mistreat(messages, how, index, rng):
    """Parts as a bad network, a bad disk or a bad client would send them."""
    index %= len(messages)
    if how == "flip":
        data = bytearray(messages[index].data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        messages[index].data = bytes(data)
    elif how == "cut":
        del messages[index:]
    elif how == "drop":
        del messages[index]
    elif how == "repeat":
        messages.insert(index, messages[index])
    elif how == "swap":
        messages[index], messages[-1] = messages[-1], messages[index]
    elif how == "longer":
        offset = messages[-1].offset + len(messages[-1].data)
        more = b"more than was told"
        crc, total = zlib.crc32(more), messages[0].total
        messages.append(pb.Part(offset=offset, data=more, crc32=crc, total=total))
    return messages


@settings(max_examples=40, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    how=st.sampled_from(["flip", "cut", "drop", "repeat", "swap", "longer"]),
    index=st.integers(0, 3), seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_mistreated_upload_is_refused_and_then_continued(
    stub, client, tmp_path, how, index, seed
):
    content = fresh_content()
    name = hashlib.sha256(content).hexdigest()
    sent = mistreat(list(parts(content, name, len(content))), how, index, random.Random(seed))
    harmless = b"".join(part.data for part in sent) == content
    code, told = send(stub, sent)
    stat = stub.StatBlob(pb.BlobRef(sha256=name))
    assert stat.committed == harmless
    if code != "OK":
        assert code in ("ABORTED", "DATA_LOSS", "INVALID_ARGUMENT")
        assert re.search(r"byte \d+|more than the \d+|was empty", told)
    if not harmless:
        kept = stat.bytes
        assert kept % PART == 0 or kept == len(content)
        # What the server says it has is what it has: the rest makes it whole.
        file = tmp_path / name
        file.write_bytes(content)
        client.upload(InputRef("photo", name, len(content)), file)
    assert stub.StatBlob(pb.BlobRef(sha256=name)).committed


@pytest.mark.parametrize("flip", [0, 12_345, 349_999])
def test_the_offset_of_the_damage_is_named(stub, flip):
    content = fresh_content()
    name = hashlib.sha256(content).hexdigest()
    messages = list(parts(content, name, len(content)))
    damaged = bytearray(messages[flip // PART].data)
    damaged[flip % PART] ^= 1
    messages[flip // PART].data = bytes(damaged)
    code, text = send(stub, messages)
    assert code == "DATA_LOSS"
    assert f"the part at byte {flip // PART * PART} was damaged" in text
    assert stub.StatBlob(pb.BlobRef(sha256=name)).bytes == flip // PART * PART


def test_an_upload_whose_content_is_another_is_thrown_away_and_can_be_sent_right(stub):
    content = fresh_content()
    name = hashlib.sha256(content).hexdigest()
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    code, text = send(stub, parts(wrong, name, len(content)))
    assert (code, "Send it again" in text) == ("DATA_LOSS", True)
    assert stub.StatBlob(pb.BlobRef(sha256=name)).bytes == 0
    assert send(stub, parts(content, name, len(content))) == ("OK", len(content))


def test_half_an_upload_waits_a_day_over_restarts_and_is_then_swept(tmp_path):
    content = fresh_content()
    name = hashlib.sha256(content).hexdigest()
    blobs = Blobs(tmp_path / "blobs", Limits())
    blobs.append("me", blobs.begin("me", name, len(content), 0), content[:PART])
    with closing(Journal(tmp_path / "journal.sqlite", whole=blobs.has)) as journal:
        for hours, left in ((1, PART), (23, PART), (25, 0)):
            blobs = Blobs(tmp_path / "blobs", Limits())  # As after a restart.
            sweep(tmp_path, journal, blobs, now=time.time() + hours * 3600)
            assert blobs.offset("me", name) == left


def test_an_upload_that_is_under_way_is_never_swept(tmp_path):
    content = fresh_content()
    name = hashlib.sha256(content).hexdigest()
    blobs = Blobs(tmp_path / "blobs", Limits())
    upload = blobs.append("me", blobs.begin("me", name, len(content), 0), content[:PART])
    assert blobs.sweep_partial(now=time.time() + 400 * DAY_S) == 0  # The clock was set wrongly.
    blobs.append("me", upload, content[PART:])
    blobs.commit_upload("me", blobs.begin("me", name, len(content), len(content)))
    assert blobs.is_sound(name)


def test_a_declared_size_that_changes_begins_anew(tmp_path):
    blobs = Blobs(tmp_path, Limits())
    name = hashlib.sha256(b"abc").hexdigest()
    blobs.append("me", blobs.begin("me", name, 10, 0), b"abcdefgh")
    with pytest.raises(WrongOffset) as caught:
        blobs.begin("me", name, 3, 8)
    assert caught.value.offset == 0
    blobs.commit_upload("me", blobs.append("me", blobs.begin("me", name, 3, 0), b"abc"))
    assert blobs.is_sound(name)


def test_bytes_that_vanish_from_a_partial_file_are_noticed(tmp_path):
    blobs = Blobs(tmp_path, Limits())
    content = os.urandom(3000)
    name = hashlib.sha256(content).hexdigest()
    upload = blobs.append("me", blobs.begin("me", name, 3000, 0), content[:2000])
    (part,) = (tmp_path / "partial").iterdir()
    os.truncate(part, 1000)
    with pytest.raises(WrongOffset) as caught:
        blobs.append("me", upload, content[2000:])
    assert caught.value.offset == 1000


def test_a_hole_that_a_crash_left_in_a_partial_file_is_found_by_the_hash(tmp_path):
    blobs = Blobs(tmp_path, Limits())
    content = os.urandom(3000)
    name = hashlib.sha256(content).hexdigest()
    upload = blobs.append("me", blobs.begin("me", name, 3000, 0), content)
    (part,) = (tmp_path / "partial").iterdir()
    with part.open("r+b") as out:
        out.seek(512)
        out.write(b"\0" * 512)
    with pytest.raises(CorruptData, match="Send it again"):
        blobs.commit_upload("me", upload)
    assert not blobs.has(name)
    assert blobs.offset("me", name) == 0
