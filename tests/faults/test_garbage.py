"""Random bytes on the port and on every method, odd names, and a store that others meddled with."""

import hashlib
import os
import random
import socket
import string
import time
from pathlib import Path

import grpc
import pytest
from bridge_fixtures import Server
from certificates import Authority
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.tokens import add_token
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound, WorldloomError
from worldloom.scene.limits import MIB, Limits

SERVICE = pb.DESCRIPTOR.services_by_name["Worlds"]
METHODS = [method.name for method in SERVICE.methods]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "ABORTED", "DATA_LOSS", "ALREADY_EXISTS"}
QUIET = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A server, and what it said when it has ended: garbage is no fault of ours to log."""
    running = Server(tmp_path_factory.mktemp("garbage") / "store")
    yield running
    code, _, err = running.end()
    assert code == 0
    assert "a call failed" not in err
    assert "Traceback" not in err


def cpu_s(server):
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(server):
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def throw(address, data, *, size=65536):
    """Send bytes to the port; what came back until the server hung up or had nothing to say."""
    host, port = address.rsplit(":", 1)
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as near:
        try:
            for start in range(0, len(data), size):
                near.sendall(data[start : start + size])
            near.settimeout(0.3)
            while block := near.recv(65536):
                answer += block
        except OSError:
            return answer
    return answer


def noise(count, seed=1):
    return random.Random(seed).randbytes(count)


GARBAGE = {
    "a megabyte of noise": noise(MIB),
    "noise after the preface": PREFACE + noise(MIB, 2),
    "noise after the settings": PREFACE + SETTINGS + noise(MIB, 3),
    "a frame that claims 16 MB": PREFACE + SETTINGS + b"\xff\xff\xff\x00\x01\x00\x00\x00\x01x",
    "headers without end": PREFACE + SETTINGS + b"\x00\x40\x00\x01\x00\x00\x00\x00\x01" + noise(99),
    "a thousand settings": PREFACE + SETTINGS * 1000,
    "a thousand pings": PREFACE + SETTINGS + b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678" * 1000,
    "a thousand resets": PREFACE + SETTINGS + b"".join(
        b"\x00\x00\x04\x03\x00" + number.to_bytes(4, "big") + b"\x00\x00\x00\x08"
        for number in range(1, 2001, 2)
    ),
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "the beginning of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(512),
    "nothing but line ends": b"\r\n" * 10_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
def test_noise_on_the_port_changes_nothing(kind, target):
    throw(target.address, GARBAGE[kind])
    with target.client() as client:
        assert client.jobs() == []


@QUIET
@given(data=st.binary(max_size=3000), prefix=st.sampled_from([b"", PREFACE, PREFACE + SETTINGS]))
def test_any_bytes_on_the_port_change_nothing(data, prefix, target):
    host, port = target.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as near:
        near.sendall(prefix + data)
    with target.client() as client:
        assert client.jobs() == []


def test_after_all_the_noise_the_server_is_idle(target):
    for data in GARBAGE.values():
        throw(target.address, data)
    with target.client() as client:
        assert client.jobs() == []
    before = cpu_s(target)
    time.sleep(1.0)
    assert cpu_s(target) - before < 0.5


def test_noise_on_a_port_with_tls_changes_nothing(start, tmp_path):
    authority, file = Authority(tmp_path / "ca"), tmp_path / "tokens"
    cert, key = authority.issue("server")
    token = add_token(file, "ann")
    server = start(extra=[str(e) for e in ("--tls-cert", cert, "--tls-key", key, "--tokens", file)])
    from worldloom.bridge.channel import Access

    for data in GARBAGE.values():
        throw(server.address, data)
    with WorldsClient(server.address, access=Access(token=token, tls_ca=authority.file)) as client:
        assert client.jobs() == []


def raw(channel, name):
    """A method without any serialization: what is given is sent."""
    method = SERVICE.methods_by_name[name]
    form = f"{'stream' if method.client_streaming else 'unary'}_"
    form += "stream" if method.server_streaming else "unary"
    call = getattr(channel, form)(f"/{SERVICE.full_name}/{name}")

    def send(data, **kwargs):
        answer = call(iter([data]) if method.client_streaming else data, timeout=10, **kwargs)
        return list(answer) if method.server_streaming else answer

    return send


def ending(send, data):
    """Status of a call."""
    try:
        send(data)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("name", METHODS)
@QUIET
@given(data=st.binary(max_size=2000))
def test_bytes_that_are_no_message_are_refused_by_every_method(name, data, target):
    with grpc.insecure_channel(target.address) as channel:
        end = ending(raw(channel, name), data)
    # Bytes may be a message by chance, and an empty one is.
    assert end in REFUSALS | {"OK", "INTERNAL", "UNKNOWN"}
    if end in ("INTERNAL", "UNKNOWN"):
        with pytest.raises(Exception, match=r"(?i)parsing|decode|utf|wire|truncated"):
            message_class(name).FromString(data)


def message_class(name):
    return getattr(pb, SERVICE.methods_by_name[name].input_type.name)


TEXTS = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        ["../../etc/passwd", "a\0b", "ab" * 32, "AB" * 32, "%s%n", "'; DROP TABLE", "\n", "/" * 300,
         "generate", "extend", "{}", "[]", '{"schema":"worldloom.request/1"}', "NaN", "1e999"]
    ),
)  # fmt: skip


@st.composite
def filled(draw, name):
    """A message of a method with any values in its fields."""
    message = message_class(name)()
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, draw(TEXTS))
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, draw(st.binary(max_size=100)))
        elif field.type in (field.TYPE_UINT64, field.TYPE_UINT32):
            bits = 64 if field.type == field.TYPE_UINT64 else 32
            setattr(message, field.name, draw(st.integers(0, 2**bits - 1)))
        elif field.type in (field.TYPE_INT64, field.TYPE_INT32):
            bits = 63 if field.type == field.TYPE_INT64 else 31
            setattr(message, field.name, draw(st.integers(-(2**bits), 2**bits - 1)))
    return message


@pytest.mark.parametrize("name", METHODS)
@QUIET
@given(data=st.data())
def test_any_values_in_a_message_are_answered_in_order(name, data, target):
    message = data.draw(filled(name))
    with grpc.insecure_channel(target.address) as channel:
        assert ending(raw(channel, name), message.SerializeToString()) in REFUSALS | {"OK"}


def test_methods_and_services_that_do_not_exist_are_said_not_to(target):
    with grpc.insecure_channel(target.address) as channel:
        for path in ("/worldloom.bridge.v1.Worlds/Shutdown", "/x/y", "/" + "a" * 3000, "/"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=10)
            assert caught.value.code().name in ("UNIMPLEMENTED", "UNKNOWN", "INTERNAL"), path


def test_a_message_above_the_limit_is_refused_before_it_is_read(target):
    before = memory_mb(target)
    with grpc.insecure_channel(target.address) as channel:
        send = raw(channel, "CreateJob")
        for _ in range(5):
            assert ending(send, bytes(64 * MIB)) == "RESOURCE_EXHAUSTED"
    assert memory_mb(target) - before < 64


def test_metadata_above_the_limit_is_refused(target):
    with grpc.insecure_channel(target.address) as channel, pytest.raises(grpc.RpcError) as caught:
        raw(channel, "GetServer")(b"", metadata=(("x", "y" * 100_000),))
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"


def test_connections_that_say_nothing_do_not_keep_others_out(target):
    host, port = target.address.rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        with target.client() as client:
            assert client.jobs() == []
    finally:
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", ".", "/etc/passwd", "a\0b", "", "~", "ab" * 31 + "a/",
             "AB" * 32, "ab" * 32 + "\n", "ab" * 33, "ab" * 5_000_000]
)  # fmt: skip
def test_no_name_of_a_client_becomes_a_path(name, target, tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    with pytest.raises(InvalidRequest, match="64 lower-case hex digits") as caught:
        blobs.path(name)
    assert len(str(caught.value)) < 400
    if len(name) > 1 << 20:
        return
    with target.client() as client:
        for job in (client.job, client.cancel, client.delete):
            with pytest.raises(NotFound):
                job(name)
        with pytest.raises(WorldloomError):
            client.fetch(ArtifactRef(1, "splats", "x", name, 100), tmp_path / "out")


def test_a_prompt_of_ten_megabytes_never_reaches_the_queue(target, world_request, photo):
    from dataclasses import replace

    with target.client() as client:
        for characters, said in ((10_000_000, "too large to send"), (7_000_000, "prompt")):
            huge = replace(world_request(), prompts={0: "x" * characters})
            with pytest.raises(InvalidRequest, match=said):
                client.submit(huge, {"photo": photo})
        assert client.jobs() == []


def test_file_names_in_the_store_are_made_of_hashes_alone(start, photo, world_request, tools):
    server = start()
    with server.client() as client:
        job = client.submit(world_request(chunks=2), {"photo": photo}, request_id="../../evil")
        assert tools.end_of(client, job.name).state == "done"
    hexes = set(string.hexdigits.lower())
    for file in (server.store / "blobs").rglob("*"):
        if file.is_file():
            assert len(file.name) == 64
            assert set(file.name) <= hexes
    assert not list(server.store.rglob("*evil*"))
    for folder in (server.store / "jobs").iterdir():
        assert set(folder.name) <= hexes


def test_a_link_in_the_store_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody may read this")
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    blobs = Blobs(tmp_path / "blobs", Limits())
    place = blobs.path(digest)
    place.parent.mkdir()
    place.symlink_to(secret)
    assert not blobs.has(digest)
    with pytest.raises((NotFound, CorruptData)):
        blobs.size(digest)
    with pytest.raises((NotFound, CorruptData)):
        blobs.read(digest, 0, 10)
    upload = blobs.begin("ann", digest, 20, 0)
    blobs.commit_upload("ann", blobs.append("ann", upload, secret.read_bytes()))
    assert not place.is_symlink()
    assert blobs.read(digest, 0, 6) == b"nobody"


def test_a_link_in_place_of_an_upload_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    blobs = Blobs(tmp_path / "blobs", Limits())
    digest = hashlib.sha256(b"x" * 20).hexdigest()
    upload = blobs.append("ann", blobs.begin("ann", digest, 20, 0), b"x" * 10)
    (part,) = (tmp_path / "blobs" / "partial").iterdir()
    part.unlink()
    part.symlink_to(victim)
    with pytest.raises((WorldloomError, OSError)):
        blobs.append("ann", upload, b"x" * 10)
    upload = blobs.append("ann", blobs.begin("ann", digest, 20, 0), b"x" * 20)
    blobs.commit_upload("ann", upload)
    assert blobs.size(digest) == 20
    assert victim.read_bytes() == b""
