"""`worldloom jobs | watch | fetch | cancel` in the hands of people and of scripts."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from worldloom.cli.main import main
from worldloom.scene.worldfolder import check_files, open_world


@pytest.fixture
def call(capsys):
    """Run a command; exit code, stdout, stderr."""

    def run(*arguments):
        code = main([str(item) for item in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def ask(call, server):
    """Run a command against the module's server with --json; exit code and its objects."""

    def run(*arguments):
        code, out, _ = call(*arguments, "--server", server.address, "--json")
        return code, [json.loads(line) for line in out.splitlines()]

    return run


def rows(said):
    return [line["job"] for line in said if line["type"] == "row"]


def test_jobs_are_limited_filtered_and_counted(ask, call, server, client, submit, tools):
    made = [submit(chunks=1).name for _ in range(3)]
    failed = submit(chunks=1, faults={"fail_at": 1}).name
    tools.end_of(client, failed)
    code, said = ask("jobs", "--limit", 2)
    assert (code, rows(said), said[-1]) == (
        0, [failed, made[2]], {"type": "jobs", "shown": 2, "more": True}
    )  # fmt: skip
    assert rows(ask("jobs", "--state", "failed")[1])[0] == failed
    assert made[0] not in rows(ask("jobs", "--state", "failed")[1])
    everything = rows(ask("jobs", "--all")[1])
    assert everything[:4] == [failed, *reversed(made)]
    _, out, _ = call("jobs", "--limit", 1, "--server", server.address)
    assert "--all lists every one" in out
    assert f"worldloom fetch {failed} --out DIR" in out
    assert call("jobs", "--limit", 0, "--server", server.address)[0] == 2


def test_more_jobs_than_a_page_are_all_listed(start, photo, world_request, call):
    server = start(options={"limits": {"queue_per_owner": 200}, "slots": 1})
    with server.client() as client:
        first = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        names = [client.submit(world_request(), {"photo": photo}).name for _ in range(119)]
        _, out, _ = call("jobs", "--all", "--json", "--server", server.address)
        listed = rows(json.loads(line) for line in out.splitlines())
        assert listed == [*reversed(names), first.name]
        client.cancel(first.name)


def test_ended_jobs_can_be_deleted(ask, call, server, client, submit, tools):
    job = submit(chunks=1).name
    tools.end_of(client, job)
    code, said = ask("jobs", "delete", job)
    assert (code, said) == (0, [{"type": "deleted", "job": job}])
    assert job not in rows(ask("jobs", "--all")[1])
    code, _, err = call("jobs", "delete", job, "--server", server.address)
    assert (code, "no job" in err) == (2, True)
    code, _, err = call("jobs", "delete", "--server", server.address)
    assert (code, "no job was named" in err) == (2, True)


def test_watch_tells_programs_of_every_event(ask, submit):
    job = submit(chunks=2).name
    code, said = ask("watch", job)
    kinds = [line["type"] for line in said]
    assert code == 0
    assert {"state", "artifact", "log", "progress"} <= set(kinds)
    assert said[-1]["state"] == "done"
    numbered = [line["seq"] for line in said if line.get("seq")]
    assert numbered == sorted(set(numbered))
    _, rest = ask("watch", job, "--after", numbered[2])
    assert [line["seq"] for line in rest if line.get("seq")] == numbered[3:]


def test_cancel_takes_several_jobs_and_says_what_is_left(call, server, submit):
    names = [submit(faults={"slow": 60}).name for _ in range(2)]
    code, out, _ = call("cancel", *names, "--server", server.address)
    assert code == 0
    assert all(f"worldloom fetch {name} --out DIR" in out for name in names)


def test_a_growing_world_is_fetched_as_far_as_it_is(call, server, client, submit, tools, tmp_path):
    job = submit(chunks=3, faults={"slow": 1.0})
    tools.until_chunk(client, job.name, 1)
    arguments = ("fetch", job.name, "--out", tmp_path / "w", "--server", server.address)
    code, out, _ = call(*arguments, "--so-far")
    world = open_world(tmp_path / "w")
    assert code == 0
    assert world.chunks in (1, 2)
    assert "it still grows" in out
    code, out, _ = call(*arguments)
    world = open_world(tmp_path / "w")
    assert (code, world.chunks, world.complete) == (0, 3, True)
    assert "every file matches its sha256" in out
    assert check_files(tmp_path / "w", world) == []


def test_what_a_cancelled_job_made_can_be_fetched(call, server, client, submit, tools, tmp_path):
    job = submit(chunks=9, faults={"slow": 0.5})
    tools.until_chunk(client, job.name, 1)
    client.cancel(job.name)
    assert tools.end_of(client, job.name).state == "cancelled"
    arguments = ("fetch", job.name, "--out", tmp_path / "w", "--server", server.address)
    assert call(*arguments)[0] == 130
    assert call(*arguments, "--so-far")[0] == 0
    assert check_files(tmp_path / "w", open_world(tmp_path / "w")) == []


def test_a_damaged_fetched_file_is_fetched_again(call, server, client, submit, tools, tmp_path):
    job = submit(chunks=1)
    tools.end_of(client, job.name)
    arguments = ("fetch", job.name, "--out", tmp_path / "w", "--server", server.address)
    assert call(*arguments)[0] == 0
    layer = next((tmp_path / "w" / "splats").iterdir())
    layer.unlink()
    layer.write_bytes(b"damaged")
    assert call(*arguments)[0] == 0
    assert check_files(tmp_path / "w", open_world(tmp_path / "w")) == []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("by", ["server", "store"])
def test_watch_goes_on_when_the_server_starts_again(start, photo, world_request, tools, by):
    """At the same port, or at another one that the store tells."""
    options = {"bind": f"127.0.0.1:{free_port()}" if by == "server" else "127.0.0.1:0"}
    server = start(options=options)
    named = {"server": server.address, "store": str(server.store)}[by]
    with server.client() as client:
        job = client.submit(world_request(chunks=3, faults={"slow": 0.7}), {"photo": photo})
        watch = subprocess.Popen(
            [sys.executable, "-m", "worldloom.cli.main", "watch", job.name,
             f"--{by}", named, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p)),
        )  # fmt: skip
        assert json.loads(watch.stdout.readline())["type"] == "state"
        tools.until_chunk(client, job.name, 1)
        server.end(signal.SIGKILL)
    with start(options=options).client() as client:
        # Not communicate: it would lose what readline has read ahead.
        said = [json.loads(line) for line in watch.stdout.read().splitlines()]
        err = watch.stderr.read()
        told = [event.seq for event in client.watch(job.name, after_seq=1) if hasattr(event, "seq")]
    assert watch.wait(10) == 0, err
    assert said[-1]["state"] == "done"
    assert [line["seq"] for line in said if line.get("seq")] == told


@pytest.mark.parametrize(
    ("option", "content", "text"),
    [
        ("--token-file", None, "cannot be read"),
        ("--tls-ca", "no certificate", "is no PEM file"),
        ("--tls-cert", "-----BEGIN CERTIFICATE-----", "belong together"),
    ],
)
def test_a_bad_credential_is_bad_input(call, server, tmp_path, option, content, text):
    file = tmp_path / "credential"
    if content is not None:
        file.write_text(content)
    code, _, err = call("jobs", "--server", server.address, option, file)
    assert (code, text in err) == (2, True)
