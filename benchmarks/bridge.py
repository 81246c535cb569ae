"""The bridge: what a transfer costs, how fast news travels, what a crowd does to the others.

Everything is measured against a raw socket and bare gRPC in the same run, since machines and
their load differ: ratios are what counts. Results: benchmarks/results/bridge.{md,json}.
Run: python benchmarks/bridge.py [--quick]
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bridge_streams
import grpc
from bridge_restart import measure_restart

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.events import Log
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, WorldRequest

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SIZE = 56_000_000
"""One million splats without harmonics, float32 [bytes]."""
LOAD = os.getloadavg()[0]
TICK = os.sysconf("SC_CLK_TCK")
MB = 1e6
SERVER = """
import asyncio, json, sys
from pathlib import Path
from worldloom.bridge.server import ServerOptions, serve
from worldloom.scene.limits import Limits
limits = Limits(watch_per_owner=5000, queue_per_owner=5000, queue_total=5000)
options = ServerOptions(
    Path(sys.argv[1]), engine="bench", slots=2, limits=limits,
    target="bridge_engine:make_world", describe="bridge_engine:describe",
)
asyncio.run(serve(options, lambda address: print(address, flush=True)))
"""


def main():
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    args = parser.parse_args()
    rounds = 4 if args.quick else 12
    rows = []
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as name, ExitStack() as stack:
        work = Path(name)
        bench = stack.enter_context(Bench(work))
        rows += bench.transfers(rounds)
        rows += bench.same_host(rounds)
        rows += bench.news(max(3, rounds // 2))
        rows += bench.control(200 if args.quick else 1000)
        rows += bench.crowd(1000)
    rows += restart()
    report(rows)


class Bench:
    """One server of ours, the bare ones beside it, and a connection."""

    def __init__(self, work):
        self.work = work
        self._stack = ExitStack()
        self._seed = 0

    def __enter__(self):
        data = os.urandom(SIZE)
        self.file = self.work / "splats"
        self.file.write_bytes(data)
        self.digest = hashlib.sha256(data).hexdigest()
        self.ref = ArtifactRef(0, "splats", "splats/x.usdc", self.digest, SIZE)
        enter = self._stack.enter_context
        self.server, address = enter(process("-c", SERVER, str(self.work / "store")))
        self.address = address
        self.client = enter(WorldsClient(address))
        self.client.upload(InputRef("photo", self.digest, SIZE), self.file)
        photo = self.work / "photo.png"
        photo.write_bytes(b"photo")
        self.photo = InputRef("photo", hashlib.sha256(b"photo").hexdigest(), 5, "png"), photo
        return self

    def __exit__(self, *error):
        self._stack.__exit__(*error)

    def job(self, **prompt):
        """A job of the benchmark's engine."""
        self._seed += 1
        ref, file = self.photo
        request = WorldRequest("bench", preset("dolly", frames=81), photo=ref,
                               prompts={0: json.dumps(prompt)}, seed=self._seed)  # fmt: skip
        return self.client.submit(request, {"photo": file})

    def transfers(self, rounds):
        """56 MB over loopback, in turn: raw, bare, ours."""
        script = str(HERE / "bridge_streams.py")
        with ExitStack() as stack:
            others = {
                kind: stack.enter_context(process(script, kind, str(self.file)))
                for kind in ("raw", *bridge_streams.BARE)
            }
            ways = {"raw": (others["raw"][0], self._raw(int(others["raw"][1])))}
            for kind in bridge_streams.BARE:
                server, port = others[kind]
                channel = stack.enter_context(
                    grpc.insecure_channel(f"127.0.0.1:{port}", bridge_streams.OPTIONS)
                )
                ways[kind] = (server, self._bare(channel, kind))
            ways["ours"] = (self.server, lambda: self._ours(checksums=False))
            ways["ours-crc32"] = (self.server, lambda: self._ours(checksums=True))
            ways["file"] = (self.server, self._fetch)
            return transfer_rows(measure(ways, rounds))

    def _raw(self, port):
        return lambda: bridge_streams.read_raw(port, SIZE)

    def _bare(self, channel, kind):
        return lambda: bridge_streams.read_bare(channel, kind, SIZE)

    def _ours(self, *, checksums):
        call = self.client._stub.ReadBlob(pb.ReadBlobRequest(sha256=self.digest))
        return bridge_streams.collect(call, SIZE, checksums=checksums)

    def _fetch(self):
        target = self.work / "fetched"
        target.unlink(missing_ok=True)
        self.client.fetch(self.ref, target)

    def same_host(self, rounds):
        """The same file by a link."""
        info, target, times = self.client.server_info(), self.work / "linked", []
        for _ in range(rounds):
            target.unlink(missing_ok=True)
            begin = time.perf_counter()
            self.client.fetch(self.ref, target, info=info)
            times.append(1000 * (time.perf_counter() - begin))
        linked = target.stat().st_nlink > 1
        name = "same host, own user: 56 MB available" + ("" if linked else " (NOT LINKED)")
        return [row(name, statistics.median(times), "ms", "<= 10 ms", linked and 10)]

    def news(self, rounds):
        """From the moment that an engine tells of a chunk to its bytes at a client."""
        told, first, whole = [], [], []
        job = self.job(bytes=SIZE, files=rounds, pause_s=1.0)
        at = {}
        for event in self.client.watch(job.name):
            if isinstance(event, Log):
                found = json.loads(event.text)
                at[found["path"]] = found["at"]
            elif isinstance(event, ArtifactRef):
                told.append(1000 * (time.time() - at[event.path]))
                call = self.client._stub.ReadBlob(pb.ReadBlobRequest(sha256=event.sha256))
                next(call)
                first.append(1000 * (time.time() - at[event.path]))
                call.cancel()
                self.client.fetch(event, self.work / "news")
                whole.append(1000 * (time.time() - at[event.path]))
        return [
            row("chunk of 56 MB finished -> readable by a remote client (first part there)",
                statistics.median(first), "ms", "<= 250 ms", 250),
            row("... told by the journal", statistics.median(told), "ms"),
            row("... whole, verified and durable at the client", statistics.median(whole), "ms"),
        ]  # fmt: skip

    def control(self, calls):
        """A control call, alone and beside 300 watchers and 4 streams that never rest."""
        idle, _ = self._ask(calls)
        job = self.job(bytes=1 << 20, files=1, pause_s=0, stay=True)
        script = str(HERE / "bridge_watchers.py")
        with (
            process(script, "watch", self.address, job.name, "300") as (_, word),
            process(script, "read", self.address, self.digest, "4") as (_, other),
        ):
            ready = (word, other) == ("ready", "ready")
            times, refused = self._ask(calls)
        self.client.cancel(job.name)
        for _ in self.client.watch(job.name):
            pass
        note = "" if ready else " (NOT READY)"
        return [
            row("control call, idle: median", statistics.median(idle), "ms"),
            row("control call beside 300 watchers and 4 streams: median" + note,
                statistics.median(times), "ms"),
            row("... p99", quantile(times, 0.99), "ms", "<= 50 ms", 50),
            row("... refused", refused, "", "0", 0),
        ]  # fmt: skip

    def _ask(self, calls):
        times, refused = [], 0
        name = self.client.jobs(limit=1)[0].name if self._seed else None
        with grpc.insecure_channel(self.address, [("n", 99)]) as channel:
            stub = rpc.WorldsStub(channel)
            for _ in range(calls):
                begin = time.perf_counter()
                try:
                    if name:
                        stub.GetJob(pb.JobRef(name=name), timeout=10)
                    else:
                        stub.StatBlob(pb.BlobRef(sha256=self.digest), timeout=10)
                except grpc.RpcError:
                    refused += 1
                times.append(1000 * (time.perf_counter() - begin))
                time.sleep(0.002)
        return times, refused

    def crowd(self, count):
        """Many watchers of one job."""
        job = self.job(bytes=1 << 16, files=40, pause_s=0.4)
        self.client.job(job.name)
        before = rss(self.server)
        script = str(HERE / "bridge_watchers.py")
        with process(script, "watch", self.address, job.name, str(count)) as (crowd, _):
            highest = before
            while (line := waited(crowd, 0.2)) is None:
                highest = max(highest, rss(self.server))
        seen = json.loads(line)
        last = self.client.job(job.name).last_seq
        every = seen["sequences"] == [list(range(1, last + 1))]
        return [
            row(f"{count} watchers: memory of the server", (highest - before) / MB, "MB",
                "<= +60 MB", 60),
            row("... errors", seen["error_count"], "", "0", 0),
            row(f"... every one of {last} events once and in order, at each", int(every), "",
                "yes", None if not every else 1),
            row("... first event: median", 1000 * seen["first_event_s"], "ms"),
        ]  # fmt: skip


@contextmanager
def process(*arguments):
    """A Python process and its first line."""
    paths = [str(HERE), *(p for p in sys.path if p)]
    child = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
    )  # fmt: skip
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def waited(child, seconds):
    """The next line of a process, or None when none comes in time."""
    import select

    readable, _, _ = select.select([child.stdout], [], [], seconds)
    return child.stdout.readline() if readable else None


def rss(child):
    """Memory of a process [bytes]."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def cpu(child):
    """CPU time of a process so far [s]."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def own_cpu():
    """CPU time of this process so far [s]."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(ways, rounds):
    """Wall time [s] of each round, and CPU time of both sides for all rounds [s], of each way."""
    found = {name: {"wall": [], "cpu": 0.0} for name in ways}
    for number in range(rounds + 1):
        for name, (server, run) in ways.items():
            before, begin = cpu(server) + own_cpu(), time.perf_counter()
            run()
            wall, used = time.perf_counter() - begin, cpu(server) + own_cpu() - before
            if number:  # The first round warms up.
                found[name]["wall"].append(wall)
                found[name]["cpu"] += used / rounds
    return found


def transfer_rows(found):
    """The table of transfers."""
    base = found["raw"]["cpu"]
    times = {name: SIZE / MB / min(values["wall"]) for name, values in found.items()}
    best = max(times[kind] for kind in bridge_streams.BARE)
    ratio = {name: values["cpu"] / base for name, values in found.items()}
    words = {
        "raw": "raw socket", "sync": "bare gRPC, sync server", "aio": "bare gRPC, aio server",
        "sync-identity": "bare gRPC, sync server, no protobuf",
        "aio-crc32": "bare gRPC, aio server, crc32", "ours": "ReadBlob, client without crc32",
        "ours-crc32": "ReadBlob with crc32", "file": "verified and durable file",
    }  # fmt: skip
    rows = [
        row(f"56 MB by {words[name]}: best rate", times[name], "MB/s",
            extra={"median_ms": 1000 * statistics.median(values["wall"]),
                   "cpu_ms": 1000 * values["cpu"]})
        for name, values in found.items()
    ]  # fmt: skip
    return [
        *rows,
        row("CPU of both sides: ReadBlob, client without crc32 / raw socket", ratio["ours"], "x",
            "<= 4x", 4),
        row("CPU: ReadBlob with crc32 / raw socket", ratio["ours-crc32"], "x", "<= 5x", 5),
        row("CPU: verified and durable file / raw socket", ratio["file"], "x", "<= 10x", 10),
        row("one stream: ReadBlob / best bare gRPC of this run", times["ours"] / best, "",
            ">= 0.7", 0.7, at_least=True),
    ]  # fmt: skip


def restart():
    """Restart after a kill with 1,000 jobs in the journal."""
    found = measure_restart()
    twice = found.sent_twice_up + found.sent_twice_down
    return [
        row(f"kill -9 with {found.jobs:,} jobs in the journal -> ready again", found.ready_s, "s",
            "<= 2 s", 2),
        row("... first start on an empty store", found.first_start_s, "s"),
        row("... bytes of an upload and a download sent twice", twice, "B", "0", 0),
    ]  # fmt: skip


def row(what, value, unit, goal="", bound=None, *, at_least=False, extra=None):
    """One line of the table."""
    met = None
    if goal:
        met = bound is not None and bound is not False
        met = met and (value >= bound if at_least else value <= bound)
    return {"what": what, "value": round(float(value), 3), "unit": unit, "goal": goal, "met": met,
            **(extra or {})}  # fmt: skip


def quantile(values, share):
    """A quantile of measured values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(rows):
    """Write and print the table."""
    RESULTS.mkdir(exist_ok=True)
    python = platform.python_version()
    where = f"{os.cpu_count()} cores, Python {python}, grpcio {grpc.__version__}"
    where += f", load of the machine {LOAD:.1f} before the run"
    lines = ["# The bridge in numbers", "", f"{where}. Made by `python benchmarks/bridge.py`."]
    lines += ["Ratios are within this run.", ""]
    lines += ["| measure | value | to reach | met |", "|---|---|---|---|"]
    for item in rows:
        more = ""
        if "cpu_ms" in item:
            more = f" (median {item['median_ms']:.0f} ms, CPU {item['cpu_ms']:.0f} ms)"
        met = {True: "yes", False: "**no**", None: ""}[item["met"]]
        value = f"{item['value']:,.4g} {item['unit']}".strip()
        lines.append(f"| {item['what']} | {value}{more} | {item['goal']} | {met} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "bridge.md").write_text(text)
    data = json.dumps({"where": where, "rows": rows}, indent=1)
    (RESULTS / "bridge.json").write_text(data + "\n")
    print(text)


if __name__ == "__main__":
    main()
