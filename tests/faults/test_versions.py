"""Peers of other versions: what was published once is read for ever, what is new is passed over."""

import json

import grpc
import pytest

from tests.bridge.conftest import Server, client, photo, submit, world_request  # noqa: F401
from tests.faults.golden_bytes import (
    FIELDS,
    FOLDER,
    VALUES,
    as_values,
    field_table,
    message_classes,
    samples,
)
from worldloom.bridge import messages
from worldloom.bridge.messages import StateChange
from worldloom.bridge.v1 import bridge_pb2 as pb

NAMES = sorted(file.stem for file in FOLDER.glob("*.bin"))
LATER = b"\xca\x3e\x05later" + b"\xd0\x3e\x07"  # Fields 1001 and 1002, which nobody knows.
SERVICE = "/worldloom.bridge.v1.Worlds/"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("versions") / "store")
    yield running
    assert running.end()[0] == 0


def golden(name):
    return (FOLDER / f"{name}.bin").read_bytes()


def class_of(name):
    return message_classes()[name.split("-")[0]]


def test_every_message_has_its_golden_bytes():
    missing = {name for name, _ in samples()} - set(NAMES)
    assert not missing, "run 'python -m tests.faults.golden_bytes' and commit what it writes"


@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes_mean_what_they_meant(name):
    message = class_of(name).FromString(golden(name))
    assert as_values(message) == json.loads(VALUES.read_text())[name]
    assert message.SerializeToString(deterministic=True) == golden(name)


@pytest.mark.parametrize("name", NAMES)
def test_fields_of_a_later_version_are_passed_over(name):
    message = class_of(name).FromString(golden(name) + LATER)
    assert as_values(message) == json.loads(VALUES.read_text())[name]


def test_no_field_ever_changes_its_number_or_its_type():
    """What a schema linter would hold: fields are added, never moved, retyped or taken away."""
    now = field_table()
    for name, fields in json.loads(FIELDS.read_text()).items():
        for number, field in fields.items():
            assert now[name][number] == field, f"{name}.{field[0]} = {number}"


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("Event-")])
def test_golden_events_become_what_watchers_receive(name):
    event = messages.happening(pb.Event.FromString(golden(name)))
    assert (event is None) == (name == "Event-heartbeat")


def test_an_event_of_a_kind_that_is_not_known_is_passed_over():
    later = pb.Event(seq=3).SerializeToString() + b"\xa2\x06\x02hi"  # Field 100 of the oneof.
    assert messages.happening(pb.Event.FromString(later)) is None


def raw(server, method, data, metadata=()):
    """A call in bytes, as a client of another version would make it."""
    with grpc.insecure_channel(server.address) as channel:
        return channel.unary_unary(SERVICE + method)(data, metadata=metadata, timeout=10)


def test_a_server_passes_over_what_a_later_client_adds(server, client, submit):  # noqa: F811
    job = submit(chunks=1)
    name = pb.JobRef(name=job.name).SerializeToString()
    assert pb.Server.FromString(raw(server, "GetServer", LATER)).version
    assert pb.Job.FromString(raw(server, "GetJob", name + LATER)).name == job.name
    with grpc.insecure_channel(server.address) as channel:
        watch = channel.unary_stream(SERVICE + "WatchJob")(name + LATER, timeout=20)
        last = [messages.happening(pb.Event.FromString(data)) for data in watch][-1]
    assert isinstance(last, StateChange)


def test_a_client_without_any_later_field_is_served(server, client, submit):  # noqa: F811
    """The first clients knew no priority, no encoding and sent no protocol range."""
    photo_ref = submit(chunks=1)
    listed = raw(server, "ListJobs", pb.ListJobsRequest(page_size=1).SerializeToString())
    (job,) = pb.ListJobsResponse.FromString(listed).jobs
    assert job.name == photo_ref.name


@pytest.mark.parametrize("told", ["7-9", "0-0"])
def test_a_client_of_another_protocol_is_told_both_ranges(server, told):
    with pytest.raises(grpc.RpcError) as caught:
        raw(server, "ListJobs", b"", [("worldloom-protocol", told)])
    assert caught.value.code().name == "FAILED_PRECONDITION"
    low, high = told.split("-")
    said = caught.value.details()
    assert (low in said, high in said, str(messages.PROTOCOL) in said) == (True, True, True)


def test_a_client_of_a_wider_range_is_served(server):
    raw(server, "ListJobs", b"", [("worldloom-protocol", "1-9")])
