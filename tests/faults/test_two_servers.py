"""Fault 14: two servers on one store; the second one goes away and harms nothing."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from worldloom.cli.main import main


def serve(store):
    """A server in a process of its own, and whether it got the store."""
    options = ("--target", "toy:make_world", "--describe", "toy:describe", "--engine", "toy")
    command = [sys.executable, "-m", "worldloom.cli.main", "serve", "--store", str(store), *options]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )  # fmt: skip
    return process, process.stdout.readline()


def test_the_second_server_is_refused_while_a_job_runs(
    start, photo, world_request, tools, capsys
):
    server = start()
    with server.client() as client:
        request = world_request(chunks=2, seed=1, faults={"slow": 0.5})
        job = client.submit(request, {"photo": photo})
        pid = tools.worker_of(client, job.name)
        before = {f: f.stat().st_ino for f in server.store.iterdir() if "sqlite-" not in f.name}
        assert main(["serve", "--store", str(server.store)]) == 4
        said = capsys.readouterr().err
        assert f"another server uses the store {server.store}" in said
        assert "stop it, or choose another --store" in said
        after = {f: f.stat().st_ino for f in server.store.iterdir() if "sqlite-" not in f.name}
        assert after == before
        assert tools.is_alive(pid)
        assert tools.end_of(client, job.name).state == "done"


def test_of_many_that_start_at_once_one_serves(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: serve(tmp_path / "store"), range(4)))
    winners = [process for process, line in started if line]
    assert len(winners) == 1
    for process, _ in started:
        if process is not winners[0]:
            _, said = process.communicate(timeout=30)
            assert process.returncode == 4
            assert "another server uses the store" in said
    record = json.loads((tmp_path / "store" / "server.json").read_text())
    assert record["pid"] == winners[0].pid
    winners[0].send_signal(signal.SIGTERM)
    winners[0].communicate(timeout=30)
    assert winners[0].returncode == 0


def test_a_killed_server_leaves_no_lock_behind(start):
    server = start()
    server.end(signal.SIGKILL)
    assert (server.store / "lock").exists()
    again = start()
    with again.client() as client:
        assert client.server_info().engines
