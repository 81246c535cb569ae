"""The repository's own source files, parsed once for all contract tests."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = {
    "bridge": ("scene", "cli", "bridge"),
    "generator": ("render", "generator"),
    "sim_tasks": ("tasks",),
    "exts/worldloom.studio": ("studio",),
}
"""Namespace roots and the packages in each."""
GENERATED = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True)
class Source:
    """One Python file of the repository."""

    path: str
    """Relative to the repository, forward slashes."""

    @cached_property
    def text(self):
        return (REPOSITORY / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self):
        return ast.parse(self.text)

    @cached_property
    def package(self):
        """Package below `worldloom`, or None for tests, tools and benchmarks."""
        for root, packages in ROOTS.items():
            for package in packages:
                if self.path.startswith(f"{root}/worldloom/{package}/"):
                    return package
        return None

    def imports(self):
        """(full module name, line, at module level) of every import statement."""
        top = {id(node) for node in module_level(self.tree)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno, id(node) in top
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                # `from worldloom import scene` names the package only in its list.
                names = [f"{base}.{a.name}" for a in node.names] if base == "worldloom" else [base]
                for name in names:
                    yield name, node.lineno, id(node) in top

    def _absolute(self, node):
        if not node.level:
            return node.module or ""
        parts = self.path.split("worldloom/", 1)[-1].split("/")[:-1]
        parts = ["worldloom", *parts][: len(parts) + 2 - node.level]
        return ".".join([*parts, node.module] if node.module else parts)


def module_level(tree):
    """Statements that run when the module is imported; not those for type checkers only."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                waiting += getattr(node, name, [])
            for handler in getattr(node, "handlers", []):
                waiting += handler.body


def tracked_files():
    """Files of the repository: what git tracks or would track, else all that is no build output."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listed = [
            str(file.relative_to(REPOSITORY))
            for file in REPOSITORY.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.parts)
        ]
    return sorted({name for name in listed if (REPOSITORY / name).is_file()})


@pytest.fixture(scope="session")
def repository():
    """Folder of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def files():
    """All tracked files, relative to the repository."""
    return tracked_files()


@pytest.fixture(scope="session")
def sources(files):
    """All Python files that people wrote."""
    return [Source(name) for name in files if name.endswith(".py") and not name.endswith(GENERATED)]


@pytest.fixture(scope="session")
def product(sources):
    """The Python files of the product: neither tests, tools nor benchmarks."""
    return [source for source in sources if source.package]
