"""Who may import whom: the layout of the architecture page, held by the syntax tree."""

import ast

ALLOWED = {
    "scene": set(),
    "render": {"scene"},
    "bridge": {"scene"},
    "generator": {"scene", "render"},
    "tasks": {"scene", "render"},
    "studio": {"scene", "bridge"},
    "cli": {"scene"},
}
"""Own packages that a package may import when it is itself imported."""
LAZILY = {
    "tasks": {"bridge"},
    "studio": {"tasks"},
    "cli": {"bridge", "generator", "render", "tasks", "studio"},
}
"""Own packages that it may import inside functions besides."""

HEAVY = {
    "torch": ("generator/worldloom/generator/",),
    "pxr": ("generator/worldloom/generator/layers/",),
    "omni": (), "carb": (), "isaacsim": (), "ray": (), "open3d": (), "ovphysx": (), "ovstage": (),
    "newton": (), "warp": (), "mujoco": (), "matplotlib": (), "trimesh": (), "diffusers": (),
    "transformers": (), "gsplat": (), "skimage": (),
}  # fmt: skip
"""Slow or rare imports -> folders whose modules may have them at module level."""

NEVER = {
    "scene": {"grpc", "google", "torch", "scipy", "numba", "PIL", "omni", "carb"},
    "generator": {"grpc", "google", "sqlite3", "omni", "carb"},
    "render": {"grpc", "google", "omni", "carb", "pxr"},
    "tasks": {"omni", "carb", "torch"},
    "bridge": {"torch", "pxr", "omni", "carb", "scipy", "numba"},
    "studio": {"torch", "scipy", "numba", "sqlite3"},
}
"""Packages of others that a package of ours must not need, not even lazily."""

SPANNING = ("bridge/worldloom/cli/bench_truth.py", "bridge/worldloom/cli/bench_world.py")
"""Modules of the command that join generator and tasks, and are loaded only by their command."""

WORKER_ENTRIES = {
    "worldloom.generator.pipeline:make_world",
    "worldloom.generator.engines:describe",
    "worldloom.generator.layers.read:read_splat_layer",
}
"""All that the server knows of the generator: names, resolved inside a worker process."""
PORT = "exts/worldloom.studio/worldloom/studio/kit_port.py"


def listing(lines):
    """One violation a line; pytest would cut a long list."""
    return "\n" + "\n".join(lines)


def own_imports(source):
    """(package below worldloom, line, at module level) of every import of our own code."""
    for name, line, top in source.imports():
        parts = name.split(".")
        if parts[0] == "worldloom" and len(parts) > 1 and parts[1] != source.package:
            yield parts[1], name, line, top


def test_packages_import_only_what_the_layout_allows(product):
    wrong = []
    for source in product:
        for package, name, line, top in own_imports(source):
            allowed = set(ALLOWED[source.package])
            if not top or source.path in SPANNING:
                allowed |= LAZILY.get(source.package, set())
            if package not in allowed:
                when = "at module level" if top else "in a function"
                wrong.append(f"{source.path}:{line}: {source.package} imports {name} {when}")
    assert not wrong, listing(wrong)


def test_the_studio_uses_only_the_client_half_of_the_bridge(product):
    wrong = []
    for source in product:
        if source.package == "studio":
            for package, name, line, _ in own_imports(source):
                if package == "bridge" and not name.startswith("worldloom.bridge.client"):
                    wrong.append(f"{source.path}:{line}: {name}")
    assert not wrong, listing(wrong)


def test_modules_that_span_packages_are_loaded_only_when_their_command_runs(product):
    names = {path.removesuffix(".py").replace("/", ".").split(".", 1)[1] for path in SPANNING}
    early = [
        f"{source.path}:{line}: {name}"
        for source in product
        for name, line, top in source.imports()
        if top and source.path not in SPANNING and any(name.startswith(n) for n in names)
    ]
    assert not early, listing(early)


def test_the_scene_needs_nothing_but_numpy(product, repository):
    import sys

    wrong = []
    for source in product:
        if source.package != "scene":
            continue
        for name, line, top in source.imports():
            first = name.split(".")[0]
            known = first in sys.stdlib_module_names or first in ("numpy", "worldloom")
            # OpenUSD may be used by the one function that vets files, never to import the module.
            if not known and (top or first != "pxr"):
                wrong.append(f"{source.path}:{line}: {name}")
    assert not wrong, listing(wrong)


def test_heavy_packages_are_imported_where_they_are_used(product):
    wrong = []
    for source in product:
        for name, line, top in source.imports():
            owners = HEAVY.get(name.split(".")[0])
            if top and owners is not None and not source.path.startswith(owners):
                wrong.append(f"{source.path}:{line}: {name} at module level")
    assert not wrong, listing(wrong)


def test_packages_do_not_know_what_they_must_not_know(product):
    wrong = []
    for source in product:
        for name, line, _ in source.imports():
            if name.split(".")[0] in NEVER.get(source.package, set()):
                wrong.append(f"{source.path}:{line}: {source.package} imports {name}")
    assert not wrong, listing(wrong)


def test_kit_is_reached_only_through_the_port(product):
    wrong = []
    for source in product:
        for name, line, _ in source.imports():
            if name.split(".")[0] in ("omni", "carb", "isaacsim") and source.path != PORT:
                wrong.append(f"{source.path}:{line}: {name}")
    assert not wrong, listing(wrong)


def test_the_server_reaches_the_generator_only_by_the_names_of_its_entries(product):
    wrong = []
    for source in product:
        if source.package != "bridge":
            continue
        documented = {
            id(node.body[0].value)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        }
        for node in ast.walk(source.tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and "worldloom.generator" in node.value
                and id(node) not in documented
                and node.value not in WORKER_ENTRIES
            ):
                wrong.append(f"{source.path}:{node.lineno}: {node.value!r}")
    assert not wrong, listing(wrong)


def test_the_worker_entries_exist(product):
    for entry in WORKER_ENTRIES:
        module, name = entry.split(":")
        path = f"generator/{module.replace('.', '/')}.py"
        source = next(source for source in product if source.path == path)
        names = {node.name for node in source.tree.body if isinstance(node, ast.FunctionDef)}
        assert name in names, entry


def test_worldloom_is_a_namespace_in_every_root(files):
    """An __init__.py directly in a worldloom/ folder would hide the other roots."""
    wrong = [name for name in files if name.endswith("worldloom/__init__.py")]
    assert not wrong, listing(wrong)


def test_every_package_says_what_it_is(product):
    folders = {source.path.rsplit("/", 1)[0] for source in product}
    initial = {source.path.rsplit("/", 1)[0] for source in product if "__init__" in source.path}
    missing = sorted(folders - initial)
    assert not missing, listing(missing)


def test_no_module_is_a_drawer_for_everything(files):
    drawers = ("utils", "util", "helpers", "misc", "common")
    wrong = [f for f in files if f.endswith(".py") and f.rsplit("/")[-1][:-3] in drawers]
    assert not wrong, listing(wrong)


def test_the_import_reader_tells_module_level_from_lazy(product, tmp_path):
    """The rules above are worth what this reader sees."""
    file = tmp_path / "sample.py"
    file.write_text(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import pxr\n"
        "try:\n    import omni.ui as ui\nexcept ImportError:\n    import carb\n"
        "class A:\n    import ray\n"
        "def f():\n    from worldloom import scene\n    from worldloom.bridge.client import x\n"
    )
    found = {name: top for name, _, top in type(product[0])(str(file)).imports()}
    assert found == {
        "torch": True, "typing": True, "pxr": False, "omni.ui": True, "carb": True, "ray": True,
        "worldloom.scene": False, "worldloom.bridge.client": False,
    }  # fmt: skip
