"""Which waiting job starts next."""

from dataclasses import replace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldloom.bridge.fairshare import ROUNDS_A_LEVEL, TOP, FairShare
from worldloom.bridge.jobs import HIGHEST, Job
from worldloom.bridge.v1 import bridge_pb2, bridge_pb2_grpc
from worldloom.scene.errors import InvalidRequest, ServerBusy
from worldloom.scene.limits import Limits

PLAIN = Job("", "", "generate", "toy", "", "", "")


def job(name, owner="a", *, priority=0, kind="generate"):
    return replace(PLAIN, name=name, owner=owner, priority=priority, kind=kind)


def order(waiting, *, running=(), share=None, slots=1, ended=True):
    """Names in the order in which the jobs start; each ends before the next one if `ended`."""
    share, waiting, running, names = share or FairShare(), list(waiting), list(running), []
    while waiting and (chosen := share.choose(waiting, running, slots)) is not None:
        waiting.remove(chosen)
        names.append(chosen.name)
        if not ended:
            running.append(chosen)
    return names


def test_jobs_of_one_owner_start_in_their_order():
    assert order([job("1"), job("2"), job("3")]) == ["1", "2", "3"]


def test_a_higher_priority_starts_first():
    waiting = [job("low", priority=-3), job("plain"), job("high", priority=3)]
    assert order(waiting) == ["high", "plain", "low"]


def test_owners_take_turns():
    waiting = [job(f"a{n}", "a") for n in range(4)] + [job(f"b{n}", "b") for n in range(2)]
    assert order(waiting) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_an_owner_without_running_jobs_comes_before_one_with_many():
    running = [job("x", "a"), job("y", "a"), job("z", "b")]
    waiting = [job("a", "a"), job("b", "b"), job("c", "c")]
    assert order(waiting, running=running, slots=8, ended=False) == ["c", "b", "a"]


def test_a_seed_overtakes_worlds_of_its_priority_but_not_of_a_higher_one():
    waiting = [job("world"), job("urgent", priority=2), job("seed", kind="seed")]
    assert order(waiting) == ["urgent", "seed", "world"]


def test_an_owner_may_be_limited_in_what_runs_at_the_same_time():
    waiting = [job(f"a{n}", "a") for n in range(3)] + [job("b", "b")]
    share = FairShare(running_per_owner=1)
    assert order(waiting, share=share, slots=8, ended=False) == ["a0", "b"]


@pytest.mark.parametrize("slots", [1, 4])
def test_a_flood_of_urgent_jobs_does_not_hold_up_a_patient_one_for_ever(slots):
    share, patient, starts = FairShare(), job("patient", "b", priority=-HIGHEST), 0
    while True:
        flood = [job(f"{starts}-{k}", "a", priority=HIGHEST, kind="seed") for k in range(32)]
        starts += 1
        if share.choose([*flood, patient], [], slots) is patient:
            break
    # It rises to the top level, and there it is its turn.
    rise = TOP + HIGHEST
    assert ROUNDS_A_LEVEL * slots * rise < starts <= ROUNDS_A_LEVEL * slots * rise + 2


def test_an_aged_world_is_not_passed_by_seeds_of_its_own_owner():
    share, world = FairShare(), job("world")
    for starts in range(ROUNDS_A_LEVEL + 1):
        if share.choose([world, job(f"s{starts}", kind="seed")], [], 1) is world:
            break
    assert starts == ROUNDS_A_LEVEL


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(-HIGHEST, HIGHEST), st.booleans()),
        min_size=1, max_size=30,
    ),
    st.integers(1, 4),
)  # fmt: skip
def test_every_job_starts_once_and_the_order_is_always_the_same(jobs, slots):
    waiting = [
        job(str(number), owner, priority=priority, kind="seed" if seed else "generate")
        for number, (owner, priority, seed) in enumerate(jobs)
    ]
    names = order(waiting, slots=slots)
    assert sorted(names, key=int) == [str(number) for number in range(len(jobs))]
    assert order(waiting, slots=slots) == names


def test_the_server_starts_what_is_urgent_first_and_bounds_it(start, photo, world_request, tools):
    server = start(options={"limits": {"urgent_per_owner": 2}})
    with server.client() as client:

        def send(priority=0, **kwargs):
            request = world_request(chunks=1, faults=kwargs.pop("faults", None))
            sent = client.submit(request, {"photo": photo}, priority=priority, **kwargs)
            return sent.name

        first = send(faults={"slow": 60})
        tools.worker_of(client, first)
        jobs = {"low": send(-5), "plain": send(), "seed": send(kind="seed"), "high": send(5)}
        assert client.job(jobs["high"]).priority == 5
        send(1)
        with pytest.raises(ServerBusy, match="2 of your jobs wait with a priority above 0"):
            send(1)
        with pytest.raises(InvalidRequest, match="priority is 11; -10 to 10 are possible"):
            send(11)
        client.cancel(first)
        began = {name: started(server, job) for name, job in jobs.items()}
        assert sorted(began, key=began.get) == ["high", "seed", "plain", "low"]


def started(server, name):
    """When a job began to run; waits for its end."""
    with grpc.insecure_channel(server.address) as channel:
        for event in bridge_pb2_grpc.WorldsStub(channel).WatchJob(
            bridge_pb2.WatchJobRequest(name=name)
        ):
            if event.WhichOneof("what") == "state" and event.state.state == "running":
                return event.at_unix_s
    raise AssertionError(f"{name} never ran")


def test_the_limits_say_how_much_is_shared():
    assert Limits().urgent_per_owner < Limits().queue_per_owner
