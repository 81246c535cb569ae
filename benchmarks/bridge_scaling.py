"""What one server can look after: journal, scheduler, fair share, processes and blobs, measured.

The page docs/scaling.md computes from these numbers how many GPUs one server can feed.
Results: benchmarks/results/bridge_scaling.json. Run: python benchmarks/bridge_scaling.py
What a message over Ray costs: .venv-ray/bin/python benchmarks/bridge_scaling.py --ray
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.fairshare import FairShare
from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.pool import LocalPool
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.worker_process import Specification
from worldloom.scene.events import Log
from worldloom.scene.limits import Limits
from worldloom.scene.path_presets import preset
from worldloom.scene.request import WorldRequest

HERE = Path(__file__).parent
RESULT = HERE / "results" / "bridge_scaling.json"
CHUNK = 56_000_000  # One million splats without harmonics, float32 [bytes].
ARTIFACTS = 6
"""Files of a chunk that are journalled: splats, surface, cameras, depth, layers, manifest."""


def make_nothing(request, *, emit, **_):
    """A job that is over at once."""
    emit(Log("info", f"pid {os.getpid()}"))


def main():
    """Measure everything; print a table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="measure on this disk instead of the temporary")
    parser.add_argument("--ray", action="store_true", help="only what a message over Ray costs")
    args = parser.parse_args()
    if args.ray:
        show(asyncio.run(ray_rows()))
        return
    rows = {}
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=args.store) as name:
        folder = Path(name)
        rows |= journal_rows(folder)
        rows |= asyncio.run(scheduler_rows(folder))
        rows |= fair_share_rows()
        rows |= asyncio.run(process_rows(folder))
        rows |= blob_rows(folder)
    show(rows)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    RESULT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written to {RESULT.name}; load average {os.getloadavg()[0]:.1f}")


def show(rows):
    """Print a table."""
    for what, value in rows.items():
        print(f"{what:<58} {value:>12,.2f}")


def journal_rows(folder):
    """Commits of the journal, each on the disk before it returns."""
    journal = Journal(folder / "journal.sqlite")
    journal.create(job("one"), "", "")
    journal.move("one", "running")
    times = [timed(lambda: journal.append("one", artifact())) for _ in range(400)]
    journal.close()
    return {
        "journal: commits a second": 1 / statistics.mean(times),
        "journal: commit, median [ms]": 1e3 * statistics.median(times),
        "journal: commit, 99th percentile [ms]": 1e3 * statistics.quantiles(times, n=100)[98],
    }


async def scheduler_rows(folder):
    """What a job costs the server besides the work itself; and a look at a long queue."""
    journal, count = Journal(folder / "scheduled.sqlite"), 60
    pool = InstantPool(8)
    scheduler = Scheduler(journal, Blobs(folder / "none", Limits()), folder, pool=pool)
    for number in range(count):
        journal.create(job(f"job{number}", number % 4), "", "")
    cpu, began = time.process_time(), time.perf_counter()
    running = asyncio.create_task(scheduler.run())
    while journal.jobs(states=("queued", "running")):
        await asyncio.sleep(0.02)
    spent, wall = time.process_time() - cpu, time.perf_counter() - began
    await scheduler.drain()
    await running
    commits = count * (ARTIFACTS + 2)
    for number in range(1256):
        journal.create(job(f"more{number}", number % 4), "", "")
        if number < 1000:
            journal.move(f"more{number}", "running")
    look = [timed(lambda: journal.jobs(states=("queued", "running"))) for _ in range(20)]
    journal.close()
    return {
        "scheduler: jobs of one chunk a second": count / wall,
        "scheduler: CPU a job of one chunk [ms]": 1e3 * spent / count,
        "scheduler: commits a second while it runs jobs": commits / wall,
        "scheduler: look at 1000 running and 256 queued jobs [ms]": 1e3 * statistics.median(look),
    }


def fair_share_rows():
    """Choosing among the most jobs that may wait."""
    share, waiting = FairShare(), [job(f"w{n}", n % 32) for n in range(Limits().queue_total)]
    running = [job(f"r{n}", n % 32) for n in range(1000)]
    times = [timed(lambda: share.choose(waiting, running, 1000)) for _ in range(50)]
    return {"fair share: choice among 256, 1000 running [ms]": 1e3 * statistics.median(times)}


async def process_rows(folder):
    """A job in a process that must be started, and in one that is warm."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    pool, times, number = LocalPool(("",), folder / "worker.log"), [], 0
    for number in range(12):
        work = folder / f"run{number}" / "work"
        work.mkdir(parents=True)
        request = WorldRequest("none", preset("dolly", frames=81), seed=number)
        specification = Specification(
            target="bridge_scaling:make_nothing", engine="none", kind="generate", inputs={},
            request=request.canonical().decode(), work=str(work), store=str(folder), resume=True,
        )  # fmt: skip
        began = time.perf_counter()
        worker = pool.take(specification)
        await worker.start()
        async for _ in worker.events():
            pass
        await worker.close()
        times.append(time.perf_counter() - began)
    (pid,) = pool.pids()
    status = Path(f"/proc/{pid}/status").read_text()
    await pool.close()
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "process: empty job, process started for it [ms]": 1e3 * times[0],
        "process: empty job, process warm, median [ms]": 1e3 * statistics.median(times[1:]),
        "process: resident memory without an engine [MB]": int(memory.split()[1]) / 1024,
    }


async def ray_rows():
    """A batch of events from an actor on a cluster of this machine."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=80 << 20,
             log_to_driver=False, configure_logging=False)  # fmt: skip
    actor = ray.remote(Talker).options(num_gpus=1, max_concurrency=8).remote()
    count, spent = 1000, {}
    for size in (1, 10):
        await anext(actor.run.options(num_returns="streaming").remote(1, size))
        cpu, began = time.process_time(), time.perf_counter()
        async for batch in actor.run.options(num_returns="streaming").remote(count, size):
            await batch
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        spent |= {
            f"ray: message of {size} events [ms]": 1e3 * wall / count,
            f"ray: message of {size} events, CPU of the server [ms]": 1e3 * cpu / count,
        }
    ray.shutdown()
    return spent


class Talker:
    """An actor that tells progress."""

    async def run(self, count, size):
        """Batches of events."""
        for _ in range(count):
            yield [{"type": "progress", "stage": "generate", "done": 1, "total": 80}] * size


def blob_rows(folder):
    """A chunk of splats becomes a blob: hash, link, sync."""
    blobs, times = Blobs(folder / "blobs", Limits()), []
    for _ in range(4):
        file = folder / "chunk"
        file.write_bytes(secrets.token_bytes(1 << 20) * (CHUNK >> 20))
        times.append(timed(lambda file=file: blobs.adopt(file)))
    return {"blob: 56 MB made durable by its worker, median [ms]": 1e3 * statistics.median(times)}


class InstantPool:
    """Workers that have always finished already."""

    def __init__(self, slots):
        self.slots, self._busy, self._changed = slots, 0, lambda: None

    def free(self):
        """Workers left."""
        return self.slots - self._busy

    def problem(self):
        """None, ever."""
        return ""

    def take(self, specification):
        """A worker."""
        self._busy += 1
        return InstantWorker(self)

    def on_change(self, call):
        """Whom to tell."""
        self._changed = call

    def back(self):
        """A worker has ended."""
        self._busy -= 1
        self._changed()

    async def close(self):
        """Nothing to end."""


class InstantWorker:
    """Tells the artifacts of one chunk and is done."""

    def __init__(self, pool):
        self._pool = pool

    async def start(self):
        """At once."""
        return ""

    async def events(self):
        """One chunk."""
        for _ in range(ARTIFACTS):
            yield artifact()
        yield {"type": "done"}

    async def stop(self):
        """It never runs."""

    async def close(self):
        """Nothing to end but the count."""
        self._pool.back()


def job(name, owner=0):
    """A job as the journal keeps it; its request has the size of a real one."""
    request = WorldRequest("none", preset("dolly", frames=81), prompts={0: "x" * 400})
    data = replace(request, seed=abs(hash(name)) % 2**31)
    return Job(
        name, f"owner{owner}", "generate", "none", data.hash(), data.canonical().decode(), "",
        created_unix_s=time.time(),
    )  # fmt: skip


def artifact():
    """An event that names a file of a chunk."""
    digest = secrets.token_hex(32)
    return {"type": "artifact", "chunk": 1, "kind": "splats", "path": f"splats/{digest}.usdc",
            "sha256": digest, "bytes": CHUNK, "supersedes": ""}  # fmt: skip


def timed(call):
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
