"""Clicks through the real window and prints what happened as JSON; runs in .venv-ui under Xvfb.

Usage: drive_window.py FOLDER_WITH_WORLDS PICTURES_FOLDER. The pytest beside it starts this.
"""

import gc
import json
import sys
import threading
import weakref
from pathlib import Path

import omni.ui as ui
import omni.ui.testing as driver
from pxr import Usd

from worldloom.studio.extension import Studio
from worldloom.studio.local_port import LocalPort
from worldloom.studio.vocabulary import find_vocabulary

CHECK_FRAMES = 600  # Frames to wait for the background check before giving up.


async def click(widget):
    """Press the middle of a widget with the mouse."""
    x = widget.screen_position_x + widget.computed_width / 2
    y = widget.screen_position_y + widget.computed_height / 2
    await driver.mouse_click(x, y)
    await driver.wait_frames(5)


async def shoot(folder, name):
    """Take a picture of the screen."""
    await driver.wait_frames(10)
    result = driver.capture_screenshot(str(folder / f"{name}.png"))
    if hasattr(result, "__await__"):
        await result


async def until_idle(port, studio):
    """Let frames pass until the background check is over."""
    for _ in range(CHECK_FRAMES):
        port.tick()
        await driver.wait_frames(1)
        if not studio.shelf.busy:
            return
    raise TimeoutError("the background check never ended")


async def drive(worlds, pictures, report):
    """Open, click everything, close, and open and close again and again."""
    # Only the extension's own folder is on the path, as in Kit.
    report["missing"] = find_vocabulary()
    stage = Usd.Stage.CreateInMemory()
    port = LocalPort(stage=stage)
    studio = Studio(port)
    await shoot(pictures, "empty")
    report["empty_message"] = studio.shelf.message
    port.folder_to_pick = str(worlds)
    await click(studio.window.buttons["browse"])
    report["found"] = [world.name for world in studio.shelf.worlds]
    report["field"] = studio.window.field.model.get_value_as_string()
    await shoot(pictures, "worlds")
    for number in range(len(studio.shelf.worlds)):
        await click(studio.window.buttons[f"add {number}"])
        await until_idle(port, studio)
    await shoot(pictures, "added")
    report["notices"] = port.notices
    report["shown"] = port.shown
    report["prims"] = [str(prim.GetPath()) for prim in stage.TraverseAll()]
    report["variants"] = [
        stage.GetPrimAtPath(f"{path}/Splats").GetVariantSet("splatFormat").GetVariantSelection()
        for path in port.shown
    ]
    await click(studio.window.buttons["refresh"])
    report["after_refresh"] = len(studio.shelf.worlds)
    studio.close()
    report["left_over"] = await start_and_stop(port, pictures)


async def start_and_stop(port, pictures):
    """Open and close fifty times, as Kit does after saved files; what is left afterwards."""
    alive = []
    for _ in range(50):
        studio = Studio(port)
        alive += [weakref.ref(studio), weakref.ref(studio.window), weakref.ref(studio.shelf)]
        await driver.wait_frames(1)
        studio.close()
        del studio
    await driver.wait_frames(3)
    gc.collect()
    await shoot(pictures, "closed")
    return {
        "updates": len(port.updates),
        "menus": len(port.menus),
        "objects": sum(reference() is not None for reference in alive),
        "threads": threading.active_count(),
    }


async def main():
    """Drive, and report even a failure."""
    report = {}
    try:
        await drive(Path(sys.argv[1]), Path(sys.argv[2]), report)
    finally:
        sys.stdout.write("REPORT " + json.dumps(report) + "\n")
        sys.stdout.flush()


ui.run(main())
