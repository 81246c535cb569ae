"""Callers without a token, with a wrong, stolen or withdrawn one, and tokens on open wires."""

import hashlib
import hmac
import json
import os
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from bridge_fixtures import Server

from worldloom.bridge import channel as channels
from worldloom.bridge.channel import Access, open_channel
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.tokens import Tokens, add_token
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.cli.main import main
from worldloom.scene.errors import (
    InvalidRequest,
    NotAuthenticated,
    NotFound,
)
from worldloom.scene.request import InputRef

WRONG = ("", "x", "Bearer", "0" * 43, "a" * 100_000)


@pytest.fixture(scope="module")
def secured(tmp_path_factory, authority, token_file, tokens):
    """A server on all addresses, with TLS and tokens."""
    cert, key = authority.issue("server")
    extra = ("--bind", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--tokens", token_file)
    running = Server(tmp_path_factory.mktemp("secured") / "store", extra=[str(e) for e in extra])
    running.address = running.address.replace("0.0.0.0", "127.0.0.1")
    yield running
    code, _, err = running.end()
    assert code == 0, err


@pytest.fixture
def enter(secured, authority, tokens):
    """Clients of the secured server by owner; a token that is none of them is used as it is."""
    opened = []

    def connect(owner, **kwargs):
        access = Access(token=tokens.get(owner, owner), tls_ca=authority.file, **kwargs)
        opened.append(WorldsClient(secured.address, access=access, away_s=0.1))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture(scope="module")
def anns_job(secured, authority, tokens, photo, world_request):
    """A finished job of ann, and one of its files."""
    access = Access(token=tokens["ann"], tls_ca=authority.file)
    with WorldsClient(secured.address, access=access) as ann:
        job = ann.submit(world_request(chunks=1, seed=77), {"photo": photo})
        made = [event for event in ann.watch(job.name) if isinstance(event, ArtifactRef)]
        yield ann.job(job.name), made[0]


def all_calls(job, ref):
    """Every method of the service with a sensible request."""
    name, blob = pb.JobRef(name=job.name), pb.BlobRef(sha256=ref.sha256, bytes=ref.bytes)
    part = pb.Part(sha256=ref.sha256, data=b"x", total=ref.bytes)
    return {
        "GetServer": pb.GetServerRequest(), "StatBlob": blob, "WriteBlob": iter([part]),
        "ReadBlob": pb.ReadBlobRequest(sha256=ref.sha256), "GetJob": name, "CancelJob": name,
        "CreateJob": pb.CreateJobRequest(kind="generate"), "DeleteJob": name,
        "ListJobs": pb.ListJobsRequest(), "WatchJob": pb.WatchJobRequest(name=job.name),
    }  # fmt: skip


def answer(stub, method, message, **kwargs):
    """Status and text of a call."""
    try:
        found = getattr(stub, method)(message, timeout=20, **kwargs)
        list(found) if method in ("ReadBlob", "WatchJob") else found
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize("wrong", [*WRONG, None])
def test_without_a_known_token_every_call_is_refused(secured, authority, anns_job, wrong):
    ca = grpc.ssl_channel_credentials(authority.file.read_bytes())
    metadata = () if wrong is None else (("authorization", f"Bearer {wrong[:4000]}"),)
    with grpc.secure_channel(secured.address, ca) as plain:
        stub = rpc.WorldsStub(plain)
        calls = all_calls(*anns_job)
        services = pb.DESCRIPTOR.services_by_name["Worlds"]
        assert set(calls) == {method.name for method in services.methods}
        for method, message in calls.items():
            code, text = answer(stub, method, message, metadata=metadata)
            assert code == "UNAUTHENTICATED", method
            assert "WORLDLOOM_TOKEN_FILE" in text


def test_a_token_is_not_taken_in_another_scheme(secured, authority, tokens):
    ca = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(secured.address, ca) as plain:
        stub = rpc.WorldsStub(plain)
        for value in (tokens["ann"], f"Basic {tokens['ann']}", f"Bearer {tokens['ann'][:-1]}"):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListJobs(pb.ListJobsRequest(), metadata=(("authorization", value),))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_record_of_the_server_names_an_address_that_its_certificate_has(secured):
    record = json.loads((secured.store / "server.json").read_text())
    assert record["tls"] is True
    assert record["address"] == f"localhost:{secured.address.rpartition(':')[2]}"


def test_health_is_told_to_everybody(secured, authority):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    ca = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(secured.address, ca) as plain:
        stub = health_pb2_grpc.HealthStub(plain)
        for name in ("", "worldloom.bridge.v1.Worlds"):
            found = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_jobs_and_blobs_of_others_look_as_if_they_did_not_exist(
    secured, authority, tokens, anns_job
):
    job, ref = anns_job
    nothing = pb.Job(name="66f0-00000000-00000000"), ArtifactRef(0, "", "", "ab" * 32, ref.bytes)
    access = Access(token=tokens["bob"], tls_ca=authority.file)
    with open_channel(secured.address, access) as foreign:
        stub = rpc.WorldsStub(foreign)
        real, unreal = all_calls(job, ref), all_calls(*nothing)
        for method in ("ReadBlob", "GetJob", "CancelJob", "DeleteJob", "WatchJob"):
            code, text = answer(stub, method, real[method])
            assert code == "NOT_FOUND", method
            shown = text.replace(job.name, nothing[0].name).replace(ref.sha256[:16], "ab" * 8)
            assert (code, shown) == answer(stub, method, unreal[method])
        stat = stub.StatBlob(real["StatBlob"])
        assert (stat.bytes, stat.committed) == (0, False)
        assert not stub.ListJobs(real["ListJobs"]).jobs


def test_worlds_and_photos_of_others_cannot_be_used(enter, anns_job, photo, world_request):
    job, ref = anns_job
    bob = enter("bob")
    with pytest.raises(NotFound, match="has not been uploaded"):
        bob.submit(world_request(seed=77), {})
    with pytest.raises(NotFound, match="there is no job"):
        bob.submit(world_request(), {"photo": photo}, kind="extend", parent=job.name)
    with pytest.raises(NotFound):
        bob.fetch(ref, photo.parent / "stolen")


def test_the_same_request_of_two_owners_gives_each_a_job_of_their_own(
    enter, anns_job, photo, world_request, tools
):
    job, _ = anns_job
    eve = enter("eve")
    own = eve.submit(world_request(chunks=1, seed=77), {"photo": photo})
    assert own.name != job.name
    assert tools.end_of(eve, own.name).state == "done"
    eve.delete(own.name)
    assert enter("ann").job(job.name).state == "done"


def test_a_thousand_wrong_tokens_do_not_slow_those_with_a_right_one(
    secured, authority, enter, anns_job
):
    ann, stop, refused = enter("ann"), threading.Event(), []
    ca = grpc.ssl_channel_credentials(authority.file.read_bytes())

    def attack(number):
        with grpc.secure_channel(secured.address, ca, [("n", number)]) as plain:
            stub = rpc.WorldsStub(plain)
            for guess in range(250):
                value = f"Bearer {hashlib.sha256(b'%d %d' % (number, guess)).hexdigest()}"
                code, _ = answer_with(stub, value)
                refused.append(code)
        stop.set()

    def times():
        found = []
        while not stop.is_set() or len(found) < 50:
            began = time.monotonic()
            ann.job(anns_job[0].name)
            found.append(time.monotonic() - began)
        return sorted(found)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ann.job(anns_job[0].name), range(10)))
        attackers = [pool.submit(attack, number) for number in range(4)]
        found = times()
        for attacker in attackers:
            attacker.result()
    assert refused == ["UNAUTHENTICATED"] * 1000
    # Alone a call takes 1 to 3 ms; a delay or a slow hash for each guess would take seconds.
    assert found[len(found) // 2] < 0.1
    assert found[-1] < 1.0


def answer_with(stub, authorization):
    try:
        stub.ListJobs(pb.ListJobsRequest(), metadata=(("authorization", authorization),))
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def test_each_token_is_compared_with_all_entries_in_constant_time(tmp_path, monkeypatch):
    made = [add_token(tmp_path / "t", owner) for owner in ("a", "b", "c")]
    known, compared, compare = Tokens.read(tmp_path / "t"), [], hmac.compare_digest

    def counted(left, right):
        compared.append(len(left) == len(right) == 32)
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for token, owner in ((made[0], "a"), (made[2], "c"), ("nobody's", None), ("", None)):
        compared.clear()
        assert known.owner(token) == owner
        assert compared == [True] * 3


def test_a_new_token_is_told_once_and_kept_as_a_hash(tmp_path, capsys):
    file = tmp_path / "secrets" / "tokens"
    for owner in ("ann", "bob", "ann"):
        assert main(["serve", "--new-token", owner, "--tokens", str(file)]) == 0
    told = capsys.readouterr().out.split()
    assert len(set(told)) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert not any(token in text for token in told)
    assert [Tokens.read(file).owner(token) for token in told] == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    ("lines", "mode", "said"),
    [
        ("ann {digest}", 0o644, "chmod 600"),
        ("ann {digest}", 0o640, "chmod 600"),
        ("# nobody yet\n", 0o600, "holds no token"),
        ("ann {digest}\nbob secret", 0o600, "line 2 of"),
        ("../ann {digest}", 0o600, "line 1 of"),
        ("{digest}", 0o600, "line 1 of"),
    ],
)
def test_a_token_file_that_is_not_safe_is_refused(tmp_path, capsys, lines, mode, said):
    file = tmp_path / "tokens"
    file.write_text(lines.format(digest="ab" * 32))
    file.chmod(mode)
    assert main(["serve", "--store", str(tmp_path / "s"), "--tokens", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_a_withdrawn_token_is_of_no_use_after_sighup(start, tmp_path, authority):
    file = tmp_path / "tokens"
    ann = add_token(file, "ann")
    server = start(extra=("--tokens", str(file)))
    with WorldsClient(server.address, access=Access(token=ann)) as client:
        assert client.jobs() == []
        file.unlink()
        bob = add_token(file, "bob")
        server.process.send_signal(signal.SIGHUP)
        wait_until_refused(client)
        with WorldsClient(server.address, access=Access(token=bob)) as other:
            assert other.jobs() == []
            # A file that has become unsafe changes nothing: nobody is locked out by a mistake.
            file.chmod(0o644)
            server.process.send_signal(signal.SIGHUP)
            with pytest.raises(NotAuthenticated):
                client.jobs()
            assert other.jobs() == []


def wait_until_refused(client):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            client.jobs()
        except NotAuthenticated:
            return
    raise AssertionError("the withdrawn token is still accepted")


def test_tokens_guard_loopback_without_tls(start, tmp_path):
    file = tmp_path / "tokens"
    ann = add_token(file, "ann")
    server = start(extra=("--tokens", str(file)))
    own = tmp_path / "token"
    own.touch(0o600)
    own.write_text(ann + "\n")
    with WorldsClient(server.address, access=Access(token_file=own)) as client:
        assert client.jobs() == []
    said = pytest.raises(NotAuthenticated, match="WORLDLOOM_TOKEN_FILE")
    with WorldsClient(server.address, access=Access()) as client, said:
        client.jobs()


def test_a_token_file_of_a_client_that_others_can_read_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o644)
    monkeypatch.setenv(channels.TOKEN_FILE, str(file))
    with pytest.raises(InvalidRequest, match="chmod 600"):
        WorldsClient("127.0.0.1:9")
    file.chmod(0o600)
    file.write_text("two words\n")
    with pytest.raises(InvalidRequest, match="holds no token"):
        WorldsClient("127.0.0.1:9")


def test_a_token_is_not_shown_where_its_access_is():
    access = Access(token="a-secret")
    assert access.secret == "a-secret"
    assert "a-secret" not in f"{access} {access!r} {[access]}"


def test_the_store_is_private_even_if_it_was_not(start, tmp_path):
    store = tmp_path / "store"
    store.mkdir(0o755)
    os.chmod(store, 0o755)
    start()
    assert stat.S_IMODE(store.stat().st_mode) == 0o700


def test_an_upload_of_others_cannot_be_continued(enter, tmp_path):
    data = os.urandom(3_000_000)
    digest = hashlib.sha256(data).hexdigest()
    file = tmp_path / "f"
    file.write_bytes(data)
    enter("ann").upload(InputRef("photo", digest, len(data), "png"), file)
    bob = enter("bob")
    stat_of = bob._stub.StatBlob(pb.BlobRef(sha256=digest, bytes=len(data)))
    assert (stat_of.bytes, stat_of.committed) == (0, False)
