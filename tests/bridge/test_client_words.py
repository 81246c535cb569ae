"""What errors and events become on the wire and on the other side."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from worldloom.bridge import messages
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.bridge.status import error_of, rebuild_error, status_of
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene import errors
from worldloom.scene.events import Log, Preview, Progress

ROOT = Path(__file__).parents[2]
CLASSES = [
    cls for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.WorldloomError)
]  # fmt: skip


class Failure:
    """A failed call, as grpc gives it to the client."""

    def __init__(self, code, text, metadata=()):
        self._values = code, text, metadata

    def code(self):
        return self._values[0]

    def details(self):
        return self._values[1]

    def trailing_metadata(self):
        return self._values[2]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_arrives_as_the_same_class(cls):
    sent = cls("what, value, limit, remedy", field="photo")
    code, metadata = status_of(sent)
    got = error_of(Failure(code, str(sent), metadata), "here:1")
    assert (type(got), str(got), got.field) == (cls, str(sent), "photo")
    assert code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


def test_offsets_and_pauses_travel_with_their_errors():
    code, metadata = status_of(errors.WrongOffset("there", offset=1234))
    assert error_of(Failure(code, "there", metadata), "x").offset == 1234
    code, metadata = status_of(errors.ServerBusy("full", retry_after_ms=30_000))
    assert error_of(Failure(code, "full", metadata), "x").retry_after_ms == 30_000


def test_a_field_that_is_not_ascii_does_not_break_the_trailer():
    _, metadata = status_of(errors.InvalidRequest("x", field="Bild\N{SNOWMAN}"))
    assert dict(metadata)["error-field"] == "Bild?"


@pytest.mark.parametrize(
    ("code", "text", "cls"),
    [
        ("UNAVAILABLE", "connection refused", errors.ServerUnreachable),
        ("DEADLINE_EXCEEDED", "too late", errors.ServerUnreachable),
        ("RESOURCE_EXHAUSTED", "quota", errors.ServerBusy),
        ("RESOURCE_EXHAUSTED", "message larger than max (9 vs. 8)", errors.InvalidRequest),
        ("UNKNOWN", "Traceback", errors.WorldloomError),
    ],
)
def test_an_error_that_is_not_ours_still_becomes_one(code, text, cls):
    got = error_of(Failure(getattr(grpc.StatusCode, code), text), "here:1")
    assert type(got) is cls
    assert text in str(got)


def test_an_error_of_a_later_version_becomes_the_base_class():
    assert type(rebuild_error("from-the-future", "x")) is errors.WorldloomError


EVENTS = [
    Progress("generate", 3, 10, "frames", 1.5),
    Progress("mesh", 0, 1, "chunks", None),
    Log("warning", "text \N{SNOWMAN}"),
    Preview(8, b"\xff\xd8"),
    ArtifactRef(2, "splats", "splats/x.usdc", "ab" * 32, 5, "splats/old.usdc", 7),
    ArtifactRef(2, "splats", "splats/x.usdc", "ab" * 32, 5, None, 8),
    StateChange("failed", "engine-failed", "why", "photo", 9),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_cross_the_wire_unchanged(event):
    body = {"type": {"ArtifactRef": "artifact", "StateChange": "state"}.get(
        type(event).__name__, type(event).__name__.lower())}  # fmt: skip
    body |= {key: value for key, value in vars(event).items() if key != "seq"}
    sent = messages.event_message(getattr(event, "seq", 0), 1.0, body)
    assert messages.happening(pb.Event.FromString(sent.SerializeToString())) == event


def test_progress_never_falls_within_one_stage(monkeypatch):
    """A lost worker begins its chunk again; the bar of a user must not jump back."""
    said = [("a", 1), ("a", 5), ("b", 2), ("a", 3), ("b", 1), ("a", 5), ("b", 7)]
    stream = [pb.Event(progress=pb.Progress(stage=stage, done=done)) for stage, done in said]
    stream.append(pb.Event(seq=1, state=pb.State(state="done")))

    class Call(list):
        def cancel(self):
            pass

    with WorldsClient("127.0.0.1:9") as client:
        monkeypatch.setattr(client._stub, "WatchJob", lambda request: Call(stream))
        seen = [(e.stage, e.done) for e in client.watch("x") if isinstance(e, Progress)]
    assert seen == [("a", 1), ("a", 5), ("b", 2), ("a", 5), ("b", 7)]


def test_an_event_of_a_later_version_is_passed_over():
    later = pb.Event(seq=3).SerializeToString() + b"\xca\x3e\x01x"  # field 1001, unknown here
    assert messages.happening(pb.Event.FromString(later)) is None


def test_the_bytes_of_version_1_still_mean_the_same():
    """Written down when version 1 was made; a change here breaks every older peer."""
    event = pb.Event.FromString(bytes.fromhex(
        "080711000000000000044022290801120673706c6174731a0d73706c6174732f"
        "782e75736463220261622805320873706c6174732f6f"
    ))  # fmt: skip
    assert (event.seq, event.at_unix_s) == (7, 2.5)
    assert messages.happening(event) == ArtifactRef(
        1, "splats", "splats/x.usdc", "ab", 5, "splats/o", 7
    )
    part = pb.Part.FromString(bytes.fromhex("0a02616210031a02787920012805"))
    assert (part.sha256, part.offset, part.data, part.crc32, part.total) == ("ab", 3, b"xy", 1, 5)
    call = pb.CreateJobRequest.FromString(
        bytes.fromhex("0a01691206657874656e641a017022027b7d2a060a0261621005")
    )
    assert (call.request_id, call.kind, call.parent_world) == ("i", "extend", "p")
    assert (call.request_json, call.inputs[0].bytes) == ("{}", 5)


def test_no_server_at_all_is_said_with_a_remedy():
    text = r"no server answers at 127\.0\.0\.1:9 .*worldloom serve"
    with (
        WorldsClient("127.0.0.1:9") as client,
        pytest.raises(errors.ServerUnreachable, match=text),
    ):
        client.server_info()


def test_a_server_of_another_protocol_is_refused_with_both_ranges():
    class Later(rpc.WorldsServicer):
        def GetServer(self, request, context):
            return pb.Server(version="9.0", protocol_min=2, protocol_max=3)

    server = grpc.server(ThreadPoolExecutor(1))
    rpc.add_WorldsServicer_to_server(Later(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        WorldsClient(f"127.0.0.1:{port}") as client,
        pytest.raises(errors.ServerRefused, match="protocol 2 to 3, this client 1; update one"),
    ):
        client.server_info()
    server.stop(0)


def test_only_unary_calls_are_repeated_by_grpc_itself():
    from worldloom.bridge.channel import UNARY

    methods = pb.DESCRIPTOR.services_by_name["Worlds"].methods
    plain = {m.name for m in methods if not (m.client_streaming or m.server_streaming)}
    assert set(UNARY) == plain


def test_a_job_survives_its_message():
    job = messages.JobInfo("n", "seed", "failed", "h", "toy", "c", "t", 3, 1.5, "photo")
    sent = messages.job_message(job)
    assert messages.job_info(pb.Job.FromString(sent.SerializeToString())) == job
    assert messages.job_info(messages.job_message(replace(job, error_field=""))) != job


def test_the_committed_code_is_what_the_pinned_tool_makes(tmp_path):
    python = ROOT / ".venv-proto" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-proto here; 'make proto' sets it up")
    version = subprocess.run(
        [python, "-m", "pip", "show", "grpcio-tools"], capture_output=True, text=True, check=True
    ).stdout
    assert "Version: 1.62.3" in version
    subprocess.run([python, ROOT / "tools" / "gen_proto.py", tmp_path], check=True)
    made = sorted(tmp_path.rglob("*.py"))
    assert [file.name for file in made] == ["bridge_pb2.py", "bridge_pb2_grpc.py"]
    for file in made:
        committed = ROOT / "bridge" / file.relative_to(tmp_path)
        assert file.read_bytes() == committed.read_bytes(), f"run make proto: {committed.name}"
