"""A Ray cluster of two logical GPUs on this machine, and servers that use it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BRIDGE = HERE.parent / "bridge"


def _fixtures():
    spec = importlib.util.spec_from_file_location("bridge_fixtures", BRIDGE / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bridge_fixtures"] = module
    spec.loader.exec_module(module)
    return module


sys.path[:0] = [str(BRIDGE)]
fixtures = _fixtures()
start, photo, world_request, tools = (
    fixtures.start, fixtures.photo, fixtures.world_request, fixtures.tools
)  # fmt: skip


@pytest.fixture(scope="session")
def cluster():
    """Address of a cluster that believes to have two GPUs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed; make ray")
    kept = os.environ.get("PYTHONPATH")
    # Nodes inherit it: their workers must find the toy.
    os.environ["PYTHONPATH"] = fixtures.environment()["PYTHONPATH"]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    context = ray.init(
        num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=80 << 20,
        log_to_driver=False, configure_logging=False,
    )  # fmt: skip
    yield context.address_info["gcs_address"]
    ray.shutdown()
    if kept is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = kept
