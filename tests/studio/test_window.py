"""The real window of the real omni.ui, clicked with a mouse under Xvfb."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UI = REPOSITORY / ".venv-ui"
PYTHON = UI / "bin" / "python"
if not PYTHON.exists():
    pytest.skip("no .venv-ui; tools/setup_ui.sh makes it", allow_module_level=True)
if shutil.which("xvfb-run") is None:
    pytest.skip("no xvfb-run; tools/setup_ui.sh says what to install", allow_module_level=True)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """Drive the window once; the report, the output and the folder of the pictures."""
    conftest = pytest.importorskip("pxr") and _helpers()
    folder = tmp_path_factory.mktemp("studio")
    worlds, pictures = folder / "worlds", folder / "pictures"
    pictures.mkdir()
    conftest.write_world(worlds / "garage", notices=("Made with research-only weights.",))
    conftest.write_world(worlds / "hallway")
    conftest.write_world(worlds / "zz hostile", spoil=conftest.smuggle_graph)
    (conftest.write_world(worlds / "zzz damaged") / "manifest.json").write_text("{")
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(UI / "stub"),
        "PYTHONPATH": str(REPOSITORY / "exts" / "worldloom.studio"),
    }
    command = ["xvfb-run", "-a", str(PYTHON), str(Path(__file__).with_name("drive_window.py"))]
    done = subprocess.run(
        [*command, str(worlds), str(pictures)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[0][7:]), pictures


def _helpers():
    """The conftest beside this file, whose world maker is also used outside fixtures."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "studio_conftest", Path(__file__).with_name("conftest.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_extension_finds_the_shared_package_around_it(driven):
    report, _ = driven
    assert report["missing"] is None


def test_browsing_lists_the_worlds_of_the_folder(driven):
    report, _ = driven
    assert "Choose the folder" in report["empty_message"]
    assert report["found"] == ["garage", "hallway", "zz_hostile", "zzz_damaged"]
    assert report["field"].endswith("worlds")


def test_clicking_add_brings_the_sound_worlds_onto_the_stage(driven):
    report, _ = driven
    assert report["shown"] == ["/World/garage", "/World/hallway"]
    assert "/World/garage/Collision/tile_0000/Mesh" in report["prims"]
    assert "/World/hallway/Cameras/Photo" in report["prims"]
    # OpenUSD 25.11, as in Kit 110 without its splat extension, shows points.
    assert report["variants"] == ["points", "points"]


def test_the_hostile_world_is_refused_in_words(driven):
    report, _ = driven
    texts = [text for text, warning in report["notices"] if warning]
    assert len(texts) == 1
    assert "OmniGraphNode" in texts[0]
    assert not [prim for prim in report["prims"] if "hostile" in prim]


def test_starting_and_stopping_leaves_nothing_behind(driven):
    report, _ = driven
    assert report["left_over"] == {"updates": 0, "menus": 0, "objects": 0, "threads": 1}


def test_the_pictures_show_a_window_and_then_none(driven):
    image = pytest.importorskip("PIL.Image")
    _, pictures = driven
    colours = {}
    for name in ("empty", "worlds", "added", "closed"):
        with image.open(pictures / f"{name}.png") as picture:
            colours[name] = len(picture.convert("RGB").getcolors(1 << 24))
    assert colours["closed"] == 1
    assert colours["empty"] > 20
    # Names, lines and buttons of the worlds come in addition.
    assert colours["worlds"] > colours["empty"]
