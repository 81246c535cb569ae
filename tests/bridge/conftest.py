"""Real server processes on loopback that run the toy generator."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.scene.events import Log
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, WorldRequest

HERE = Path(__file__).parent
START_S = 30


class Server:
    """A server process of a test."""

    def __init__(self, store, *, extra=(), options=None):
        self.store = store
        store.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "worldloom.cli.main", "serve", "--store", str(store),
                   "--target", "toy:make_world", "--describe", "toy:describe",
                   "--engine", "toy", *extra]  # fmt: skip
        if options is not None:
            command = [sys.executable, str(HERE / "small_server.py"), str(store),
                       json.dumps(options)]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment(),
        )  # fmt: skip
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            raise AssertionError(f"the server did not start: {self.process.stderr.read()}")
        self.address = json.loads(self.first_line)["address"]

    def client(self, **kwargs):
        return WorldsClient(self.address, **kwargs)

    def end(self, number=signal.SIGTERM):
        """Send a signal and wait; exit code, and what came on stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def environment():
    paths = [str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in paths if p))


@pytest.fixture
def start(tmp_path):
    """Start servers; those still up at the end of the test are killed."""
    running = []

    def begin(name="store", **kwargs):
        running.append(Server(tmp_path / name, **kwargs))
        return running[-1]

    yield begin
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all tests of a module; its jobs have different seeds."""
    running = Server(tmp_path_factory.mktemp("shared") / "store")
    yield running
    code, _, err = running.end()
    assert code == 0, err


@pytest.fixture(scope="module")
def client(server):
    with server.client() as connection:
        yield connection


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A file of 2.5 MB that stands for a photo: the toy does not look at it."""
    file = tmp_path_factory.mktemp("photo") / "p.png"
    file.write_bytes(hashlib.sha256(b"photo").digest() * 80_000)
    return file


@pytest.fixture(scope="session")
def world_request(photo):
    """Make requests; each call gives another one unless `seed` says which."""
    seeds = iter(range(10_000))

    def make(*, chunks=3, seed=None, faults=None, **kwargs):
        data = photo.read_bytes()
        return WorldRequest(
            kwargs.pop("engine", "toy"),
            preset("dolly", frames=1 + 80 * chunks),
            photo=InputRef("photo", hashlib.sha256(data).hexdigest(), len(data), "png"),
            prompts={0: json.dumps(faults)} if faults else {},
            seed=next(seeds) if seed is None else seed,
            **kwargs,
        )

    return make


@pytest.fixture
def submit(client, photo, world_request):
    """Send a request of these properties to the module's server."""

    def send(*, parent=None, kind="generate", request_id=None, **kwargs):
        request = world_request(**kwargs)
        return client.submit(
            request, {"photo": photo}, kind=kind, parent=parent, request_id=request_id
        )

    return send


@pytest.fixture(scope="session")
def tools():
    """Small helpers that several modules share."""
    return Tools


class Tools:
    """What tests do again and again."""

    @staticmethod
    def end_of(client, name):
        """The last state change of a job."""
        return [e for e in client.watch(name) if isinstance(e, StateChange)][-1]

    @staticmethod
    def artifacts(client, name):
        return [e for e in client.watch(name) if isinstance(e, ArtifactRef)]

    @staticmethod
    def worker_of(client, name):
        """Process id of the job's worker, from its log line."""
        for event in client.watch(name):
            if isinstance(event, Log) and (found := re.match(r"pid (\d+)", event.text)):
                return int(found[1])
        raise AssertionError("the job ended without a word of its worker")

    @staticmethod
    def until_chunk(client, name, chunk):
        """Wait until the manifest of a chunk is journalled; its sequence number."""
        for event in client.watch(name):
            if isinstance(event, ArtifactRef) and (event.kind, event.chunk) == ("manifest", chunk):
                return event.seq
        raise AssertionError(f"the job ended before chunk {chunk}")

    @staticmethod
    def wait(condition, *, seconds=10.0):
        """Wait for something to become true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError("it did not happen in time")

    @staticmethod
    def is_alive(pid):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"


class CuttingProxy:
    """A TCP proxy that cuts the connection after some bytes, a few times, then leaves it alone."""

    def __init__(self, target, *, after, times, upwards=False):
        self._target = target.rsplit(":", 1)
        self._after, self._times, self._upwards = after, times, upwards
        self.cuts = 0
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._target[0], int(self._target[1])))
            for pump in ((near, far, self._upwards), (far, near, not self._upwards)):
                threading.Thread(target=self._pump, args=pump, daemon=True).start()

    def _pump(self, source, sink, counts):
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if counts:
                    self.sent += len(data)
                if counts and self.cuts < self._times and passed > self._after:
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cutting_proxy():
    """Make proxies in front of a server."""
    made = []

    def make(target, **kwargs):
        made.append(CuttingProxy(target, **kwargs))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
