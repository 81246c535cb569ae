"""Fault 9: paths that no camera could fly are refused in words, and nothing enters the queue."""

import json
import re

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

KEYS = 5
BAD_NUMBERS = (float("nan"), float("inf"), float("-inf"))
# kind of damage: (what the text must say, with the pose in it)
WORDS = {
    "position": r"pose {pose} has a NaN or infinity in its position",
    "orientation": r"pose {pose} has a NaN or infinity in its (orientation|rotation)",
    "time": r"pose {pose} has a NaN or infinity in its t;",
    "stretched": r"pose {pose} is not a rotation: its quaternion has length",
    "zero": r"pose {pose} is not a rotation: its quaternion has length 0",
    "fov": r"pose {pose} has (a NaN or infinity in its|a field of view of)",
    "back in time": r"pose {pose} has time .*not after pose {before}; times must rise",
    "teleport": r"pose \d+ is [\d.e+]+ m (from pose \d+: a teleport|away from the photo); the",
}


@pytest.fixture(scope="module")
def refuse(server, client, world_request):
    """Send a request with a changed path; status and text of its refusal."""
    good = json.loads(world_request(chunks=2, seed=1).canonical())
    path = good["path"]
    first = path["keyframes"][0]
    path["keyframes"] = [
        {**first, "t": float(number), "position": [0.1 * number, 0.0, 0.0], "fov_deg": 60.0}
        for number in range(KEYS)
    ]
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)

        def send(change):
            changed = json.loads(json.dumps(good))
            change(changed["path"])
            message = pb.CreateJobRequest(kind="generate", request_json=json.dumps(changed))
            with pytest.raises(grpc.RpcError) as caught:
                stub.CreateJob(message, timeout=20)
            return caught.value.code(), caught.value.details()

        yield send
    assert client.jobs() == []


def spoil(path, kind, pose, bad):
    key = path["keyframes"][pose]
    if kind == "position":
        key["position"][pose % 3] = bad
    elif kind == "orientation":
        key["orientation_wxyz"][pose % 4] = bad
    elif kind == "time":
        key["t"] = bad
    elif kind == "stretched":
        key["orientation_wxyz"] = [1.5 * value for value in key["orientation_wxyz"]]
    elif kind == "zero":
        key["orientation_wxyz"] = [0.0] * 4
    elif kind == "fov":
        key["fov_deg"] = bad
    elif kind == "back in time":
        key["t"] = -1.0
    else:
        key["position"] = [1000.0 * (1 + pose), 0.0, 0.0]


@settings(max_examples=80, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(kind=st.sampled_from(sorted(WORDS)), pose=st.integers(1, KEYS - 1),
       bad=st.sampled_from(BAD_NUMBERS))  # fmt: skip
def test_a_bad_pose_is_named_with_what_is_wrong(refuse, kind, pose, bad):
    code, text = refuse(lambda path: spoil(path, kind, pose, bad))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, text
    assert re.search(WORDS[kind].format(pose=pose, before=pose - 1), text), text


@pytest.mark.parametrize(("frames", "words"), [
    (0, "at least 2 are needed"), (-5, "at least 2 are needed"), (1, "at least 2 are needed"),
    (8002, "8002 frames; the limit is 8001"), (1_000_001, "1000001 frames; the limit is 8001"),
    (10**15, "the limit is 8001"),
])  # fmt: skip
def test_a_path_of_impossible_length_is_refused_before_it_is_sampled(refuse, frames, words):
    code, text = refuse(lambda path: path.update(frames=frames))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in text


@pytest.mark.parametrize(("keyframes", "words"), [
    ([], r"0 keyframe\(s\); at least 2 are needed"),
    ([{"t": 0.0}], "each keyframe needs t, position"),
    ("abc", "each keyframe needs t, position"),
    ([{"t": 0, "position": [0, 0], "orientation_wxyz": [1, 0, 0, 0]}] * 2, "cannot be read|each"),
])  # fmt: skip
def test_a_path_without_poses_is_refused(refuse, keyframes, words):
    code, text = refuse(lambda path: path.update(keyframes=keyframes))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, text
    assert re.search(words, text), text


def test_a_path_that_spins_is_refused(refuse):
    def spin(path):
        path["frames"] = KEYS
        for number, key in enumerate(path["keyframes"]):
            key["orientation_wxyz"] = [1.0, 0, 0, 0] if number % 2 else [0.0, 0, 0, 1.0]

    code, text = refuse(spin)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(r"pose \d+ turns [\d.]+ degrees from pose \d+; the limit is 20", text), text
