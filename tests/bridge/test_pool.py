"""Processes of the local pool: which GPU they see, when they are reused, what broken starts do."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldloom.bridge import pool as pool_module
from worldloom.bridge import setbacks
from worldloom.bridge.pool import LocalPool, Recycling, local_devices
from worldloom.bridge.setbacks import BROKEN_STARTS
from worldloom.bridge.worker_process import Patience, Specification, start_process
from worldloom.scene.path_presets import preset
from worldloom.scene.request import WorldRequest

HERE = Path(__file__).parent
QUICK = Patience(silence_s=30.0, stall_s=30.0, stop_s=1.0, insist_s=2.0)


def test_every_process_sees_one_gpu_and_more_processes_share_them():
    assert local_devices(0, visible=None) == ("",)
    assert local_devices(0, visible=None, workers=3) == ("", "", "")
    assert local_devices(8, visible=None) == tuple("01234567")
    assert local_devices(2, visible=None, workers=3) == ("0", "1", "0")
    assert local_devices(8, visible="4,6") == ("4", "6")
    assert local_devices(8, visible="GPU-5e1f, GPU-77aa", workers=1) == ("GPU-5e1f",)
    assert local_devices(8, visible="") == ("",)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Run a coroutine with a pool; its processes are gone afterwards."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))

    def run(body, *, devices=("",), **recycling):
        async def whole():
            pool = LocalPool(
                devices, tmp_path / "log", patience=QUICK, recycling=Recycling(**recycling)
            )
            try:
                return await asyncio.wait_for(body(pool), 30)
            finally:
                await pool.close()
                assert pool.pids() == []

        return asyncio.run(whole())

    return run


@pytest.fixture
def job(tmp_path):
    """Make specifications of toy jobs."""
    numbers = iter(range(1000))

    def specify(engine="toy", **faults):
        import json

        number = next(numbers)
        work = tmp_path / f"job{number}" / "work"
        work.mkdir(parents=True)
        prompts = {0: json.dumps(faults)} if faults else {}
        request = WorldRequest(engine, preset("dolly", frames=81), prompts=prompts, seed=number)
        return Specification(
            target="toy:make_world", engine=engine, request=request.canonical().decode(),
            kind="generate", inputs={}, work=str(work), store=str(tmp_path), resume=True,
        )  # fmt: skip

    return specify


async def run(pool, specification):
    """Run a job to its end: process id and last word."""
    worker = pool.take(specification)
    try:
        assert await worker.start() == ""
        told = [body async for body in worker.events()]
    finally:
        await worker.close()
    (pid,) = {int(b["text"].split()[1]) for b in told if b["type"] == "log"} or {0}
    return pid, told[-1]["type"]


def test_a_process_is_kept_for_its_engine_alone(make, job):
    async def body(pool):
        ran = [await run(pool, job(engine)) for engine in ("toy", "toy", "preview", "preview")]
        return [pid for pid, word in ran if word == "done"]

    toy, toy_again, other, other_again = make(body)
    assert toy == toy_again != other == other_again


def test_a_warm_process_is_preferred_to_an_empty_place_and_that_to_another_engine(make, job):
    async def body(pool):
        toy = await run(pool, job("toy"))
        other = await run(pool, job("preview"))
        return toy, other, await run(pool, job("preview")), await run(pool, job("toy"))

    toy, other, other_again, toy_again = make(body, devices=("", ""))
    assert toy == toy_again
    assert other == other_again


def test_a_process_is_replaced_after_many_jobs(make, job):
    async def body(pool):
        return [(await run(pool, job()))[0] for _ in range(4)]

    pids = make(body, jobs=2)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_an_idle_process_is_ended(make, job):
    async def body(pool):
        await run(pool, job())
        assert len(pool.pids()) == 1
        while pool.pids():
            await asyncio.sleep(0.05)
        return await run(pool, job())

    assert make(body, idle_s=0.2)[1] == "done"


def test_a_process_sees_the_gpu_of_its_place(make, job, tmp_path):
    async def body(pool):
        await run(pool, job())
        (pid,) = pool.pids()
        return Path(f"/proc/{pid}/environ").read_text().split("\0")

    environment = make(body, devices=("3",))
    assert "CUDA_VISIBLE_DEVICES=3" in environment
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in environment


def test_a_job_that_was_stopped_before_it_began_leaves_the_process_ready(make, job):
    async def body(pool):
        first = await run(pool, job())
        worker = pool.take(job(slow=60))
        await worker.start()
        await worker.stop()
        told = [event async for event in worker.events()]
        await worker.close()
        assert [event["code"] for event in told] == ["cancelled"]
        return first, await run(pool, job())

    first, second = make(body)
    assert first == second


@pytest.mark.parametrize("faults", [{"slow": 60}, {"mischief": [[1, "flood"]]}])
def test_a_job_that_nobody_listens_to_any_more_is_ended(make, job, tools, faults):
    async def body(pool):
        worker = pool.take(job(**faults))
        await worker.start()
        async with contextlib.aclosing(worker.events()) as events:
            async for event in events:
                pid = int(event["text"].split()[1])
                break
            if "mischief" in faults:
                await asyncio.sleep(0.5)  # Until every buffer on the way is full.
        began = time.monotonic()
        await worker.close()
        assert time.monotonic() - began < QUICK.insist_s
        assert not tools.is_alive(pid)
        assert pool.free() == 1

    make(body)


def test_a_pool_that_cannot_start_processes_says_so_and_recovers(make, job, monkeypatch):
    monkeypatch.setattr(setbacks, "PAUSE_S", (0.01, 0.02))
    real = start_process

    async def refuse(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    async def fail(pool):
        changed = asyncio.Event()
        pool.on_change(changed.set)
        worker = pool.take(job())
        why = await worker.start()
        assert pool.free() == 0
        await worker.close()
        changed.clear()
        await changed.wait()  # It says when the next try may be made.
        assert pool.free() == 1
        return why

    async def body(pool):
        monkeypatch.setattr(pool_module, "start_process", refuse)
        for number in range(1, BROKEN_STARTS + 1):
            assert pool.problem() == ""
            assert await fail(pool) == "no worker process can be started", number
        assert "3 worker processes in a row" in pool.problem()
        assert "Resource temporarily unavailable" in pool.problem()
        monkeypatch.setattr(pool_module, "start_process", real)
        assert (await run(pool, job()))[1] == "done"
        assert pool.problem() == ""

    make(body)


def test_a_process_that_ends_at_once_counts_as_not_started(make, job, monkeypatch):
    monkeypatch.setattr(setbacks, "PAUSE_S", (0.01, 0.02))
    monkeypatch.setattr(sys, "executable", "/bin/false")

    async def body(pool):
        for _ in range(BROKEN_STARTS):
            worker = pool.take(job())
            assert await worker.start() != ""
            await worker.close()
        return pool.problem()

    assert "it exited with 1 at once" in make(body)


def test_jobs_wait_while_no_process_can_be_started(start, photo, world_request, tools):
    server = start()
    log = server.store / "worker.log"
    with server.client() as client:
        first = client.submit(world_request(chunks=1), {"photo": photo})
        pid = tools.worker_of(client, first.name)
        assert tools.end_of(client, first.name).state == "done"
        log.unlink()
        log.mkdir()  # Nothing can be written there, so no process begins.
        os.kill(pid, signal.SIGKILL)
        job = client.submit(world_request(chunks=1), {"photo": photo})
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(1.5)
        assert client.job(job.name).state == "queued"
        log.rmdir()
        assert tools.end_of(client, job.name).state == "done"
    assert f"job {job.name} waits on: no worker process can be started" in server.end()[2]
