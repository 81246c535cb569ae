"""What a server counts, and its Prometheus page: no prompt, no name, no owner is ever a label.

The names of queue and calls follow NVIDIA NIM, so that thresholds of autoscalers can be kept.
"""

from __future__ import annotations

import re
import shutil
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldloom.scene.errors import InvalidRequest, ServerRefused

CALL_BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0)
QUEUE_BOUNDS_S = (0.1, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
LOOPBACK = "127.0.0.1"
OUR_CALL = re.compile(r"/worldloom\.bridge\.v1\.Worlds/(\w{1,40})")


class Histogram:
    """Durations in a few ranges."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration [s]."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, int]]:
        """Upper bounds and how many are below each, as Prometheus wants them."""
        names, below, found = [*map(str, self.bounds), "+Inf"], 0, []
        for name, count in zip(names, self.counts, strict=True):
            below += count
            found.append((name, below))
        return found


class Meter:
    """Counts of one server; any thread may read and write them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._ended: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._call_s = Histogram(CALL_BOUNDS_S)
        self._queue_s = Histogram(QUEUE_BOUNDS_S)

    def call(self, method: str, code: str, seconds: float) -> None:
        """Count a call that has ended; streams count, but not their time."""
        found = OUR_CALL.fullmatch(method)
        name = found[1] if found else "other"
        with self._lock:
            self._calls[name, code] += 1
            if name not in ("WatchJob", "ReadBlob", "WriteBlob"):
                self._call_s.add(seconds)

    def moved(self, state: str, waited_s: float | None = None) -> None:
        """Count a job that entered a state; one that begins tells how long it waited [s]."""
        with self._lock:
            self._ended[state] += 1
            if waited_s is not None:
                self._queue_s.add(max(0.0, waited_s))

    def moved_bytes(self, direction: str, count: int) -> None:
        """Count bytes of blobs, `up` or `down`."""
        with self._lock:
            self._bytes[direction] += count

    def families(self) -> Iterator[Any]:
        """The counts as Prometheus metric families."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        with self._lock:
            calls = CounterMetricFamily(
                "nim_requests", "Calls by method and status.", labels=["method", "code"]
            )
            for labels, count in sorted(self._calls.items()):
                calls.add_metric(labels, count)
            jobs = CounterMetricFamily(
                "worldloom_jobs", "Jobs that entered a state.", labels=["state"]
            )
            for state, count in sorted(self._ended.items()):
                jobs.add_metric([state], count)
            moved = CounterMetricFamily(
                "worldloom_blob_bytes", "Bytes of blobs, up and down.", labels=["direction"]
            )
            for direction in ("up", "down"):
                moved.add_metric([direction], self._bytes[direction])
            latency = HistogramMetricFamily(
                "nim_request_latency_seconds", "Time of calls that are no streams [s]."
            )
            latency.add_metric([], self._call_s.buckets(), self._call_s.total_s)
            waited = HistogramMetricFamily(
                "nim_request_queue_time_seconds", "Time that jobs waited before they began [s]."
            )
            waited.add_metric([], self._queue_s.buckets(), self._queue_s.total_s)
        yield from (calls, jobs, moved, latency, waited)


@dataclass(frozen=True)
class Gauges:
    """What is read at the moment when the page is asked for."""

    store: Path
    jobs: Callable[[], dict[str, int]]
    """Number of jobs in the states queued and running."""
    streams: Callable[[], dict[str, int]]
    """Open calls by kind."""
    problem: Callable[[], str]
    """Why no job can run; empty when all is well."""

    def families(self) -> Iterator[Any]:
        """The present values as Prometheus metric families."""
        from prometheus_client.core import GaugeMetricFamily

        jobs = self.jobs()
        yield GaugeMetricFamily(
            "nim_request_queue_depth", "Jobs that wait.", value=jobs.get("queued", 0)
        )
        yield GaugeMetricFamily(
            "nim_requests_running", "Jobs that run.", value=jobs.get("running", 0)
        )
        streams = GaugeMetricFamily(
            "worldloom_open_calls", "Calls under way by kind.", labels=["kind"]
        )
        for kind, count in sorted(self.streams().items()):
            streams.add_metric([kind], count)
        yield streams
        yield GaugeMetricFamily(
            "worldloom_workers_usable", "1 when jobs can run, 0 when no worker can be started.",
            value=0 if self.problem() else 1,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "worldloom_store_free_bytes", "Free space of the store's disk.",
            value=shutil.disk_usage(self.store).free,
        )  # fmt: skip


@dataclass(frozen=True)
class MetricsPage:
    """The page while it is served."""

    port: int
    _server: Any = field(repr=False)
    _thread: threading.Thread = field(repr=False)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(port: int, meter: Meter, gauges: Gauges) -> MetricsPage:
    """Serve the page on loopback, in a thread of its own.

    Args:
        port: Port; 0 for any free one.
        meter: What was counted.
        gauges: What is read.

    Raises:
        InvalidRequest: prometheus-client is not installed.
        ServerRefused: The port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            "--metrics needs prometheus-client; pip install 'worldloom[server]'"
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(meter, gauges))
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise ServerRefused(
            f"cannot serve metrics on {LOOPBACK}:{port} ({error.strerror}); choose another "
            "--metrics PORT, or 0 for any free one"
        ) from error
    return MetricsPage(server.server_port, server, thread)


class _Collector:
    """Joins counts and gauges, as prometheus-client asks for it."""

    def __init__(self, meter: Meter, gauges: Gauges) -> None:
        self._meter, self._gauges = meter, gauges

    def describe(self) -> list[Any]:
        """Nothing: names are not known before the first page."""
        return []

    def collect(self) -> Iterator[Any]:
        """All metric families."""
        yield from self._meter.families()
        yield from self._gauges.families()
