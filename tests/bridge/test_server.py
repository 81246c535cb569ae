"""Servers that start, refuse to start, are killed, are told to end, and come back."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import grpc
import pytest

from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.bridge.server import list_gpus
from worldloom.bridge.tls import Safety, check_safety
from worldloom.bridge.worldcache import follow
from worldloom.cli.main import main
from worldloom.scene.errors import InvalidRequest, ServerRefused, ServerUnreachable
from worldloom.scene.worldfolder import check_files, open_world

SLOW = {"slow": 0.3}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_serve_prints_one_json_line_and_records_where_it_is(start):
    server = start()
    record = json.loads(server.first_line)
    assert set(record) == {"address", "pid"}
    assert record["pid"] == server.process.pid
    assert json.loads((server.store / "server.json").read_text()) == record
    assert stat.S_IMODE(server.store.stat().st_mode) == 0o700
    code, out, _ = server.end()
    assert (code, out) == (0, "")
    assert not (server.store / "server.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order_and_the_job_goes_on_later(
    start, photo, world_request, tools, tmp_path, number
):
    server = start()
    with server.client() as client:
        job = client.submit(world_request(chunks=3, faults=SLOW), {"photo": photo})
        pid = tools.worker_of(client, job.name)
        tools.until_chunk(client, job.name, 1)
        begin = time.monotonic()
        code, _, err = server.end(number)
    assert code == 0, err
    assert time.monotonic() - begin < 15
    assert not tools.is_alive(pid)
    with start().client() as client:
        manifest = follow(client, client.job(job.name), tmp_path / "w")
        states = [e.state for e in client.watch(job.name) if isinstance(e, StateChange)]
    assert manifest.complete
    assert states == ["queued", "running", "queued", "running", "done"]


def test_a_killed_server_continues_with_the_same_bytes(
    start, photo, world_request, tools, tmp_path
):
    request = world_request(chunks=3, faults=SLOW)
    server = start("killed")
    with server.client() as client:
        job = client.submit(request, {"photo": photo})
        pid = tools.worker_of(client, job.name)
        tools.until_chunk(client, job.name, 1)
        server.end(signal.SIGKILL)
    tools.wait(lambda: not tools.is_alive(pid))
    with start("killed").client() as client:
        disturbed = follow(client, client.job(job.name), tmp_path / "a")
        artifacts = tools.artifacts(client, job.name)
    with start("calm").client() as client:
        job = client.submit(request, {"photo": photo})
        calm = follow(client, job, tmp_path / "b")
        undisturbed = tools.artifacts(client, job.name)
    assert disturbed.to_bytes() == calm.to_bytes()
    assert {(a.path, a.sha256) for a in artifacts} == {(a.path, a.sha256) for a in undisturbed}
    assert len(artifacts) == len(undisturbed)


def test_a_worker_that_hears_nothing_ends_with_its_server(start, photo, world_request, tools):
    server = start()
    with server.client() as client:
        request = world_request(chunks=1, faults={"slow": 60, "deaf": 1})
        pid = tools.worker_of(client, client.submit(request, {"photo": photo}).name)
        assert tools.is_alive(pid)
        server.end(signal.SIGKILL)
    tools.wait(lambda: not tools.is_alive(pid), seconds=5)


def test_a_watch_goes_on_over_a_restart_without_gap_or_repetition(
    start, photo, world_request, tools
):
    bind = ("--bind", f"127.0.0.1:{free_port()}")
    server = start(extra=bind)
    events = []
    with server.client() as client:
        job = client.submit(world_request(chunks=3, faults=SLOW), {"photo": photo})
        watcher = threading.Thread(target=lambda: events.extend(client.watch(job.name)))
        watcher.start()
        tools.until_chunk(client, job.name, 1)
        server.end(signal.SIGKILL)
        start(extra=bind)
        watcher.join(30)
        assert not watcher.is_alive()
        again = [e for e in client.watch(job.name) if getattr(e, "seq", 0)]
    assert [e for e in events if getattr(e, "seq", 0)] == again
    assert again[-1].state == "done"


def test_a_job_that_was_being_cancelled_is_not_begun_again(start, photo, world_request, tools):
    server = start()
    with server.client() as client:
        request = world_request(chunks=1, faults={"slow": 60, "deaf": 1})
        job = client.submit(request, {"photo": photo})
        tools.worker_of(client, job.name)
        client.cancel(job.name)
        server.end(signal.SIGKILL)
    with start().client() as client:
        assert client.job(job.name).state == "cancelled"


def test_a_server_that_goes_away_is_named_and_what_came_is_kept(
    start, photo, world_request, tmp_path
):
    server = start()
    with server.client(away_s=1) as client:
        job = client.submit(world_request(chunks=3, faults=SLOW), {"photo": photo})

        def kill_after_the_first_chunk(event):
            if isinstance(event, ArtifactRef) and event.kind == "manifest":
                server.process.kill()

        with pytest.raises(ServerUnreachable, match=f"no server answers at {server.address}"):
            follow(client, job, tmp_path / "w", on_event=kill_after_the_first_chunk)
        with pytest.raises(ServerUnreachable, match="worldloom serve"):
            client.server_info()
    manifest = open_world(tmp_path / "w")
    assert manifest.chunks >= 1
    assert check_files(tmp_path / "w", manifest) == []


def test_a_watcher_learns_that_the_server_ends(start, photo, world_request, tools):
    server = start()
    with server.client(away_s=0) as client:
        job = client.submit(world_request(chunks=1, faults={"slow": 60}), {"photo": photo})
        tools.worker_of(client, job.name)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ServerUnreachable, match="shutting down"):
            list(client.watch(job.name))


def test_a_port_in_use_is_refused_with_a_remedy(start, capsys, tmp_path):
    address = start().address
    code = main(["serve", "--store", str(tmp_path / "other"), "--bind", address])
    assert code == 4
    said = capsys.readouterr().err
    assert f"cannot listen on {address}" in said
    assert "Choose another, or 0" in said


def test_two_servers_on_one_store_are_refused(start, capsys):
    server = start()
    assert main(["serve", "--store", str(server.store)]) == 4
    said = capsys.readouterr().err
    assert f"another server uses the store {server.store}" in said
    assert "choose another --store" in said


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:0", "[::]:0", "192.168.1.5:80", "127.evil.example:80", "localhost.evil:80"]
)
def test_an_address_beyond_this_machine_is_refused(bind, tmp_path, capsys):
    assert main(["serve", "--bind", bind, "--store", str(tmp_path / "s")]) == 4
    said = capsys.readouterr().err
    assert bind in said
    assert "without TLS" in said
    assert "ssh -L" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:8080", "[::1]:0", "127.9.9.9:1"])
def test_addresses_of_this_machine_are_accepted(bind):
    check_safety(bind, Safety())


@pytest.mark.parametrize("bind", ["", "8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ":80"])
def test_what_is_no_address_is_said_to_be_none(bind):
    with pytest.raises((InvalidRequest, ServerRefused), match=r"HOST:PORT|listen"):
        check_safety(bind, Safety())


def test_an_unknown_default_engine_is_refused(tmp_path, capsys):
    code = main(["serve", "--store", str(tmp_path / "s"), "--engine", "lyra9"])
    assert code == 2
    assert "unknown engine preset 'lyra9'; use one of" in capsys.readouterr().err


def test_a_generator_that_cannot_be_loaded_is_named(tmp_path, capsys):
    code = main(["serve", "--store", str(tmp_path / "s"), "--describe", "no.such:thing"])
    assert code == 5
    assert "no.such:thing cannot list its presets" in capsys.readouterr().err
    assert "ModuleNotFoundError" in (tmp_path / "s" / "worker.log").read_text()


def test_an_unwritable_store_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert main(["serve", "--store", str(tmp_path / "file" / "s")]) == 6
    assert "choose another folder" in capsys.readouterr().err


def test_the_server_lives_without_stdin(tmp_path, photo, world_request, tools):
    command = f"exec {sys.executable} -m worldloom.cli.main serve --engine toy --store {tmp_path}/s"
    process = subprocess.Popen(
        ["bash", "-c", f"{command} --target toy:make_world --describe toy:describe <&-"],
        stdout=subprocess.PIPE, text=True, env=environment_with_toy(),
    )  # fmt: skip
    address = json.loads(process.stdout.readline())["address"]
    from worldloom.bridge.client import WorldsClient

    with WorldsClient(address) as client:
        job = client.submit(world_request(chunks=1), {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


def environment_with_toy():
    return dict(os.environ, PYTHONPATH=os.path.dirname(__file__))


def test_the_standard_health_check_answers(start):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server = start()
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="worldloom.bridge.v1.Worlds")
        assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING


def test_gpus_are_read_from_the_kernel_driver(tmp_path):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
        text = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 12\n"
        (tmp_path / name / "information").write_text(text)
    assert list_gpus(tmp_path) == ("NVIDIA H100 80GB HBM3",) * 2
    assert list_gpus(tmp_path / "none") == ()


def test_an_older_store_is_taken_over(start, photo, world_request, tools, tmp_path):
    import sqlite3

    from worldloom.bridge.journal import SCHEMA

    (tmp_path / "old").mkdir()
    with sqlite3.connect(tmp_path / "old" / "journal.sqlite") as db:
        db.executescript(SCHEMA.replace(",\n  engine_key TEXT NOT NULL DEFAULT ''", ""))
        assert "engine_key" not in str(db.execute("PRAGMA table_info(jobs)").fetchall())
    with start("old").client() as client:
        job = client.submit(world_request(chunks=1), {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"
