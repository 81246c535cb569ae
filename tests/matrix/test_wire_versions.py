"""The client with protobuf 4.25, 5.29 and the newest, against one server of this environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bridge.conftest import Server, photo  # noqa: F401

ROOT = Path(__file__).parents[2]
RUNTIMES = {"4.25": ".venv-wire-4.25", "5.29": ".venv-wire-5.29", "7.": ".venv"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("wire") / "store")
    yield running
    assert running.end()[0] == 0


@pytest.mark.parametrize("version", RUNTIMES)
def test_the_client_works_with_this_protobuf(server, photo, tmp_path, version):  # noqa: F811
    python = ROOT / RUNTIMES[version] / "bin" / "python"
    if version.startswith("7"):
        python = Path(sys.executable)
    if not python.exists():
        pytest.skip(f"no {RUNTIMES[version]} here; tools/setup_wire.sh makes it")
    script = Path(__file__).with_name("wire_client.py")
    run = subprocess.run(
        [python, script, server.address, photo, tmp_path / "w"],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH") or str(ROOT / "bridge")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said.pop("protobuf").startswith(version)
    assert "no job" in said.pop("gone")
    assert said.pop("grpcio")
    assert said == {
        "files": 6, "progress": True, "complete": True, "problems": [], "cancelled": "cancelled",
        "listed": True,
    }  # fmt: skip
