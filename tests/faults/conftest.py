"""The same real servers and toy generator as the tests of the bridge."""

import importlib.util
import sys
from collections import Counter
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


sys.path[:0] = [str(folder) for folder in (HERE, BRIDGE) if str(folder) not in sys.path]
counting = importlib.import_module("counting")
_passed = Counter()
fixtures = _fixtures()
start, server, client = fixtures.start, fixtures.server, fixtures.client
photo, world_request, submit = fixtures.photo, fixtures.world_request, fixtures.submit
tools, cutting_proxy = fixtures.tools, fixtures.cutting_proxy


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def token_file(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens") / "tokens"


@pytest.fixture(scope="session")
def tokens(token_file):
    from worldloom.bridge.tokens import add_token

    return {owner: add_token(token_file, owner) for owner in ("ann", "bob", "eve")}


def pytest_collection_modifyitems(items):
    """Count the examples of the hypothesis tests of this folder."""
    counting.count_examples([item for item in items if HERE in item.path.parents])


def pytest_runtest_logreport(report):
    """Count the tests of this folder that pass."""
    name = report.nodeid.split("[")[0]
    if report.when == "call" and report.passed and HERE.name + "/" in name:
        _passed[name] += 1


def pytest_sessionfinish():
    """Write the counts where they are asked for."""
    counting.finish(_passed)
