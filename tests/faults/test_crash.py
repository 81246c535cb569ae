"""Fault 1: a server or a worker dies at any of its writes, and no client notices.

SQLite's way: die at the first write, at the second, ... until a run is not disturbed any more. A
client submits once, watches once, and finds the world of an undisturbed run.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from counting import happened
from crash_toy import MADE
from crash_trial import Trial, broken_promises, start_server
from toy import make_world

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import Conflict
from worldloom.scene.worldfolder import check_files

CHUNKS = 2
SIDE_BY_SIDE = 2  # Trials at the same time: they wait for processes most of their time.


@pytest.fixture(scope="module")
def calm(tmp_path_factory, photo, world_request):
    """The request of a run that nothing disturbed, and its world."""
    request = world_request(chunks=CHUNKS, seed=42)
    trial = Trial(tmp_path_factory.mktemp("calm") / "trial", request, photo).run()
    assert trial.problems == []
    assert (trial.deaths, trial.made()) == (0, list(range(1, CHUNKS + 1)))
    assert trial.seqs == trial.told()
    return request, trial.files()


def until_undisturbed(attempt):
    """Try the writes 1, 2, 3, ... until one trial had fewer; how many had enough."""
    disturbed = 0
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for first in count(1, SIDE_BY_SIDE):
            results = list(pool.map(attempt, range(first, first + SIDE_BY_SIDE)))
            disturbed += sum(results)
            happened(sum(results))
            if not all(results):
                return disturbed


@pytest.mark.parametrize(("when", "least"), [("before", 20), ("after", 20), ("half", 3)])
def test_a_server_that_dies_at_any_write_loses_nothing(calm, photo, tmp_path, when, least):
    request, files = calm

    def attempt(k):
        trial = Trial(tmp_path / f"at-{k}", request, photo).run(when, k)
        assert trial.problems == [], f"died {when} write {k}"
        assert trial.files() == files, f"died {when} write {k}"
        assert trial.seqs == trial.told(), f"died {when} write {k}"
        again = set(trial.made()[trial.made_before :])
        assert not again & trial.finished_before, f"died {when} write {k}"
        assert len(trial.made()) <= CHUNKS + 1, f"died {when} write {k}"
        return trial.deaths == 1

    assert until_undisturbed(attempt) >= least


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_at_any_write_loses_nothing(photo, world_request, tmp_path, when):
    plans, store = tmp_path / "plans", tmp_path / "store"
    plans.mkdir()
    server = start_server(store, slots=SIDE_BY_SIDE, worker_plans=plans)
    address = json.loads(server.stdout.readline())["address"]

    def attempt(k):
        request = world_request(chunks=CHUNKS, seed=k)
        counted = plans / f"{k}.count"
        plan = {"k": k, "when": when, "count": str(counted)}
        (plans / f"{k}.json").write_text(json.dumps(plan))
        with WorldsClient(address) as client:
            job = client.submit(request, {"photo": photo})
            manifest = follow(client, job, tmp_path / f"world-{k}")
        assert manifest == undisturbed(request, tmp_path / f"calm-{k}"), f"died {when} write {k}"
        assert check_files(tmp_path / f"world-{k}", manifest) == [], f"died {when} write {k}"
        return counted.stat().st_size >= k

    deaths = until_undisturbed(attempt)
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=30)
    assert server.returncode == 0, said
    assert deaths >= 50
    assert broken_promises(store, tmp_path / "copy") == []
    made = [len(file.read_text().split()) for file in (store / "jobs").glob(f"*/{MADE}")]
    assert max(made) == CHUNKS + 1
    assert said.count("killed by signal 9") == deaths


def undisturbed(request, folder):
    """What the toy makes of a request when nobody disturbs it."""
    return make_world(
        request, inputs={}, work=folder, resume=False, emit=lambda _: None,
        cancelled=lambda: False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["extend", "revert"])
def test_a_change_of_a_world_survives_the_server_too(
    start, photo, world_request, tools, tmp_path, kind
):
    server = start("store")
    first = world_request(chunks=1, seed=1)
    change = world_request(chunks=2, seed=2, faults={"slow": 0.4})
    with server.client() as client:
        parent = client.submit(first, {"photo": photo})
        world = follow(client, parent, tmp_path / "world")
        job = client.submit(change, {"photo": photo}, kind=kind, parent=parent.name)
        tools.until_chunk(client, job.name, 1)
        with pytest.raises(Conflict, match=f"needs {parent.name}; cancel it first"):
            client.delete(parent.name)
    server.end(signal.SIGKILL)
    assert broken_promises(server.store, tmp_path / "copy") == []
    with start("store").client() as client:
        manifest = follow(client, client.job(job.name), tmp_path / "world")
        assert manifest.parents == (change.hash(),)
        assert manifest.world_id == world.world_id
        assert check_files(tmp_path / "world", manifest) == []
        # The younger world needs nothing of the older one any more.
        client.delete(parent.name)
        assert follow(client, client.job(job.name), tmp_path / "again") == manifest
