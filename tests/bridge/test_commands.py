"""`worldloom jobs | watch | fetch | cancel | check` against a real server."""

import json

import pytest

from worldloom.bridge.check import check_store
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


def test_jobs_are_listed_for_people_and_for_programs(call, server, client, submit, tools):
    good, bad = submit(chunks=1), submit(chunks=1, faults={"fail_at": 1})
    tools.end_of(client, bad.name)
    code, out, _ = call("jobs", "--server", server.address)
    assert code == 0
    assert good.name in out
    assert "ask it not to" in out
    code, out, _ = call("jobs", "--store", server.store, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, rows[0]["job"], rows[0]["state"]) == (0, bad.name, "failed")


def test_watch_tells_the_end_by_its_exit_code(call, server, client, submit, tools):
    job = submit(chunks=1)
    code, out, _ = call("watch", job.name, "--server", server.address)
    assert (code, "is done" in out) == (0, True)
    failed = submit(chunks=1, faults={"fail_at": 1})
    code, _, err = call("watch", failed.name, "--server", server.address)
    assert (code, "ask it not to" in err) == (5, True)
    slow = submit(chunks=1, faults={"slow": 60})
    tools.worker_of(client, slow.name)
    assert call("cancel", slow.name, "--server", server.address)[0] == 0
    assert call("watch", slow.name, "--server", server.address)[0] == 130


def test_fetch_brings_a_world_and_says_which_job_made_it(call, server, submit, tmp_path):
    job = submit(chunks=2)
    code, out, err = call("fetch", job.name, "--out", tmp_path / "w", "--server", server.address)
    assert code == 0, err
    assert str(tmp_path / "w") in out
    assert (tmp_path / "w" / ".job").read_text().strip() == job.name
    assert check_files(tmp_path / "w", open_world(tmp_path / "w")) == []


def test_an_unknown_job_is_bad_input(call, server, tmp_path):
    for command in ("watch", "cancel"):
        code, _, err = call(command, "nobody", "--server", server.address)
        assert (code, "no job 'nobody'" in err) == (2, True)
    code, _, _ = call("fetch", "nobody", "--out", tmp_path / "w", "--server", server.address)
    assert code == 2


def test_no_server_named_and_none_there(call, tmp_path):
    code, _, err = call("jobs", "--store", tmp_path)
    assert code == 2
    assert "--server HOST:PORT" in err
    code, _, err = call("jobs", "--server", "127.0.0.1:9")
    assert (code, "worldloom serve" in err) == (4, True)


def test_check_refuses_what_is_neither_world_nor_store(call, tmp_path):
    code, _, err = call("check", tmp_path)
    assert (code, "neither a world" in err) == (2, True)


def test_a_store_can_be_checked_while_its_server_runs(server, submit, client, tools):
    tools.end_of(client, submit(chunks=1).name)
    assert [finding for finding in check_store(server.store) if finding.is_damage] == []
