"""One job, made by a server that dies at one of its writes, seen from a client."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from crash_toy import FOLDER, MADE

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import ServerUnreachable

HERE = Path(__file__).parent
PATHS = (HERE, HERE.parent / "bridge")  # Where servers and workers find the toys.
PATIENCE_S = 60
TRIES = 5


def start_server(store, *, port=0, slots=1, plan=None, worker_plans=None):
    """A server process; its first line tells that it is ready."""
    paths = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
    environment = dict(os.environ, PYTHONPATH=paths.rstrip(os.pathsep))
    if worker_plans is not None:
        environment[FOLDER] = str(worker_plans)
    command = [sys.executable, str(HERE / "crash_server.py"), str(store), str(port), str(slots)]
    return subprocess.Popen(
        [*command, json.dumps(plan or {})], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


class Trial:
    """A server that is started again whenever it was killed, and what was found meanwhile."""

    def __init__(self, folder, request, photo):
        self.store, self.out = folder / "store", folder / "world"
        folder.mkdir(parents=True)
        self._count, self._folder = folder / "count", folder
        self._request, self._photo = request, photo
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._up = threading.Event()
        self._over = False
        self.deaths = 0
        self.problems, self.seqs = [], []
        self.finished_before, self.made_before = set(), 0

    def run(self, when="before", k=0):
        """Make the job's world, with a death at the k-th write; 0 disturbs nothing."""
        plan = {"when": when, "k": k, "count": str(self._count)}
        keeper = threading.Thread(target=self._keep_up, args=(plan,))
        keeper.start()
        try:
            self._follow()
        finally:
            self._over = True
            self._process.terminate()
            keeper.join(PATIENCE_S)
        return self

    def files(self):
        """Digest of every file of the world that the client has."""
        return {
            str(file.relative_to(self.out)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in self.out.rglob("*")
            if file.is_file()
        }

    def made(self):
        """Numbers of the chunks that were made, in order, repetitions included."""
        (file,) = (self.store / "jobs").glob(f"*/{MADE}")
        return [int(line) for line in file.read_text().split()]

    def told(self):
        """Numbers of the artifacts and states in the journal: all of them, for a watcher."""
        with closing(sqlite3.connect(self.store / "journal.sqlite")) as db:
            rows = db.execute("SELECT seq, body FROM events ORDER BY seq").fetchall()
        return [seq for seq, body in rows if json.loads(body)["type"] != "log"]

    def writes(self):
        """How many writes were counted."""
        return self._count.stat().st_size

    def _keep_up(self, plan):
        """Start the server, with its plan the first time, until the client has the world."""
        while not self._over:
            self._process = start_server(self.store, port=self._port, plan=plan)
            if self._process.stdout.readline():
                self._up.set()
            _, said = self._process.communicate()
            self._up.clear()
            code = self._process.returncode
            if code == -signal.SIGKILL:
                self.deaths += 1
                plan = {}
                self._inspect()
            elif not self._over or code != 0:
                self.problems.append(f"the server ended with {code}: {said[-2000:]}")
                self._up.set()
                break

    def _follow(self):
        """Do what a client does whose server comes back: send the same again."""
        for _ in range(TRIES):
            if not self._up.wait(PATIENCE_S) or self.problems:
                break
            self.seqs = []
            try:
                with WorldsClient(f"127.0.0.1:{self._port}") as client:
                    files = {"photo": self._photo}
                    job = client.submit(self._request, files, request_id="the one")
                    return follow(client, job, self.out, on_event=self._note)
            except ServerUnreachable:
                continue
        raise AssertionError(f"the job did not end; {self.problems}")

    def _note(self, event):
        if getattr(event, "seq", 0):
            self.seqs.append(event.seq)

    def _inspect(self):
        """Look at the store of a dead server before the next one may repair anything."""
        for lock in (self.store / "jobs").glob("*/lock"):
            with lock.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)  # Its worker is gone too.
        marks = (self.store / "jobs").rglob("done-[0-9]")
        self.finished_before = {int(mark.name.split("-")[1]) for mark in marks}
        made = list((self.store / "jobs").glob(f"*/{MADE}"))
        self.made_before = len(made[0].read_text().split()) if made else 0
        self.problems += broken_promises(self.store, self._folder / "copy")


def broken_promises(store, copy):
    """What the journal says that is not so: blobs that are not whole, gaps, states; as lines."""
    copy.mkdir(exist_ok=True)
    for file in store.glob("journal.sqlite*"):
        shutil.copy(file, copy)
    if not (copy / "journal.sqlite").exists():
        return []
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        if not tables >= {"jobs", "events", "blob_owners"}:
            return []
        events = db.execute("SELECT job, seq, body FROM events ORDER BY job, seq").fetchall()
        states = dict(db.execute("SELECT name, state FROM jobs"))
        named = {row[0] for row in db.execute("SELECT sha256 FROM blob_owners")}
    return [*_about_blobs(store, events, named), *_about_events(events, states)]


def _about_blobs(store, events, named):
    bodies = [json.loads(body) for _, _, body in events]
    named = named | {body["sha256"] for body in bodies if body["type"] == "artifact"}
    for sha256 in sorted(named):
        blob = store / "blobs" / sha256[:2] / sha256
        if not blob.is_file():
            yield f"the journal names blob {sha256}, which is not there"
        elif hashlib.sha256(blob.read_bytes()).hexdigest() != sha256:
            yield f"the journal names blob {sha256}, which is not whole"


def _about_events(events, states):
    for name, state in states.items():
        mine = [(seq, json.loads(body)) for job, seq, body in events if job == name]
        if [seq for seq, _ in mine] != list(range(1, len(mine) + 1)):
            yield f"the events of {name} have the numbers {[seq for seq, _ in mine]}"
        told = [body["state"] for _, body in mine if body["type"] == "state"]
        if told[-1:] != [state]:
            yield f"{name} is {state}, but its events end with {told}"
    orphans = {job for job, _, _ in events} - set(states)
    yield from (f"there are events of no job: {name}" for name in sorted(orphans))
