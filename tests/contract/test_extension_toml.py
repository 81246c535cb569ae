"""extension.toml is correct in form, complete, and the same in its three places."""

import ast
import importlib.util
import re
import tomllib

import pytest

EXTENSION = "exts/worldloom.studio"
REAL = f"{EXTENSION}/config/extension.toml"
COPIES = ("config/extension.toml", "extension.toml")
PNG = b"\x89PNG\r\n\x1a\n"

SECTIONS = {
    "package", "core", "dependencies", "python", "settings", "fswatcher", "documentation", "test",
}  # fmt: skip
PACKAGE_KEYS = {
    "version", "title", "description", "category", "keywords", "authors", "repository", "icon",
    "preview_image", "changelog", "readme",
}  # fmt: skip
CATEGORIES = {"Simulation", "Setup", "Utility", "Sample", "Other", "Internal", "Replicator"}
BOTH_VERSIONS = {
    "omni.kit.uiapp", "omni.ui", "omni.usd", "omni.kit.actions.core", "omni.kit.menu.utils",
    "omni.kit.notification_manager", "omni.kit.window.filepicker",
}  # fmt: skip
"""Extensions that Kit 107 and 110 both have, headless too; all others must be optional."""


@pytest.fixture(scope="module")
def manifests(repository):
    """Parsed manifest by place."""
    return {
        name: tomllib.loads((repository / name).read_text(encoding="utf-8"))
        for name in (REAL, *COPIES)
    }


def png_size(file):
    data = file.read_bytes()
    assert data.startswith(PNG), file
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_copies_at_the_top_are_made_from_the_real_one(repository):
    spec = importlib.util.spec_from_file_location(
        "sync_extension", repository / "tools" / "sync_extension.py"
    )
    sync = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sync)
    wanted = sync.root_manifest((repository / REAL).read_text(encoding="utf-8"))
    for name in COPIES:
        text = (repository / name).read_text(encoding="utf-8")
        assert text == wanted, f"{name} is old; run: python tools/sync_extension.py"


def test_the_copies_differ_only_in_where_things_lie(manifests):
    real, top = manifests[REAL], manifests[COPIES[0]]
    assert manifests[COPIES[0]] == manifests[COPIES[1]]
    for section in set(real) | set(top):
        if section not in ("package", "python"):
            assert real[section] == top[section]
    for key, value in real["package"].items():
        moved = key in ("icon", "preview_image", "changelog", "readme")
        assert top["package"][key] == (f"{EXTENSION}/{value}" if moved else value)


def test_the_manifest_has_the_sections_and_keys_that_kit_knows(manifests):
    for manifest in manifests.values():
        assert set(manifest) <= SECTIONS
        assert set(manifest["package"]) == PACKAGE_KEYS
        assert manifest["package"]["category"] in CATEGORIES
        assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["package"]["version"])
        assert manifest["core"]["reloadable"] is True


def test_the_version_is_the_distributions(manifests, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert manifests[REAL]["package"]["version"] == project["version"]
    changelog = (repository / EXTENSION / "docs" / "CHANGELOG.md").read_text()
    assert f"## {project['version']}" in changelog


@pytest.mark.parametrize(("place", "folder"), [(REAL, EXTENSION), (COPIES[0], ".")])
def test_every_file_it_names_exists(manifests, repository, place, folder):
    package = manifests[place]["package"]
    for key in ("icon", "preview_image", "changelog", "readme"):
        assert (repository / folder / package[key]).is_file(), package[key]
    assert png_size(repository / folder / package["icon"]) == (256, 256)
    assert min(png_size(repository / folder / package["preview_image"])) >= 256


@pytest.mark.parametrize(("place", "folder"), [(REAL, EXTENSION), (COPIES[0], ".")])
def test_its_python_module_can_be_found_from_its_folder(manifests, repository, place, folder):
    modules = manifests[place]["python"]["module"]
    paths = [
        repository / folder,
        *(repository / folder / m["path"] for m in modules if "path" in m),
    ]
    for module in modules:
        if "name" in module:
            package = module["name"].replace(".", "/")
            assert any((path / package / "__init__.py").is_file() for path in paths)
    # The folder must be on the path before the module is imported.
    assert [("path" in m) for m in modules] == sorted(
        (("path" in m) for m in modules), reverse=True
    )


def test_what_one_version_lacks_is_optional(manifests):
    for name, options in manifests[REAL]["dependencies"].items():
        assert name in BOTH_VERSIONS or options.get("optional") is True, name


def test_every_kit_module_it_imports_is_a_dependency(manifests, product):
    """`omni.kit.app`, `carb` and `omni.ext` belong to the kernel; all else has to be named."""
    kernel = {"omni", "omni.ext", "omni.kit.app", "carb", "carb.settings", "carb.eventdispatcher"}
    named = set(manifests[REAL]["dependencies"])
    for source in product:
        if source.package == "studio":
            for name, line, _ in source.imports():
                if name.split(".")[0] in ("omni", "carb", "isaacsim"):
                    assert name in kernel | named, f"{source.path}:{line}: {name}"


def test_every_setting_is_explained(repository):
    """The line above each setting says what it does."""
    lines = (repository / REAL).read_text(encoding="utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if line.startswith("exts.")]
    assert len(settings) >= 3
    for number in settings:
        assert lines[number - 1].startswith("# "), lines[number]


def test_every_setting_that_the_code_reads_has_a_default(manifests, product):
    known = set(manifests[REAL]["settings"]["exts"]["worldloom.studio"])
    read = {
        node.args[0].value
        for source in product
        if source.package == "studio"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("setting", "remember")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert read
    assert read <= known


def test_the_code_takes_its_id_from_kit(product):
    """A clone in a folder of another name has another id; a constant would miss its settings."""
    for source in product:
        if source.package == "studio":
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert node.value != "worldloom.studio", f"{source.path}:{node.lineno}"


def test_the_module_offers_what_kit_looks_for(monkeypatch):
    from worldloom import studio

    assert studio.__all__ == ["StudioExtension"]
    assert callable(studio.StudioExtension.on_startup)
    assert callable(studio.StudioExtension.on_shutdown)
    # A shutdown without a startup, as after a failed start, must not fail.
    studio.StudioExtension().on_shutdown()
