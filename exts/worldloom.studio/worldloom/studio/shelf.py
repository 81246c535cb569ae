"""What the window knows: the worlds of a folder, what is being added, and the last message.

Knows no widget, so that every button is tested without a window. Checking a world takes as long
as reading it; that happens in a thread, and what follows is done on the next update of the main
loop, where stages may be edited.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.errors import WorldloomError
from worldloom.scene.manifest import Manifest
from worldloom.scene.worldfolder import MANIFEST, open_world
from worldloom.studio.attach import PreparedWorld, attach_world, prepare_world, prim_name
from worldloom.studio.kit_port import KitPort, Release

LOGGER = logging.getLogger(__name__)

SEARCH_DEPTH = 2
"""Folders below the chosen one that are looked into: `demo/world` is found from above `demo`."""
MOST_WORLDS = 200


@dataclass(frozen=True)
class ShelfWorld:
    """One world in the list."""

    folder: Path
    name: str
    summary: str
    """Engine, size and scale in one line."""
    notice: str = ""
    """What its licence or its maker wants users to know."""
    usable: bool = True


class Shelf:
    """The state behind the window."""

    def __init__(self, port: KitPort) -> None:
        self.folder = str(port.setting("worlds_folder") or "")
        self.worlds: tuple[ShelfWorld, ...] = ()
        self.message = ""
        self.busy = False
        self.changed: Callable[[], None] = lambda: None
        """Called after every change, on the main thread."""
        self._port = port
        self._done: queue.Queue[PreparedWorld | str] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._picker: Release = lambda: None
        self._updates = port.each_update(self.update)
        self.refresh()

    def choose_folder(self, text: str) -> None:
        """Look in another folder from now on."""
        self.folder = text.strip()
        self._port.remember("worlds_folder", self.folder)
        self.refresh()

    def browse(self) -> None:
        """Let the user choose the folder."""
        self._picker()
        self._picker = self._port.pick_folder(self.folder, self.choose_folder)

    def refresh(self) -> None:
        """Read the folder again."""
        self.worlds = find_worlds(Path(self.folder)) if self.folder else ()
        if not self.folder:
            self.message = "Choose the folder where worldloom put its worlds."
        elif not self.worlds:
            self.message = f"No worlds in {self.folder}. Make one with: worldloom demo"
        else:
            count = len(self.worlds)
            self.message = f"{count} world{'s' * (count > 1)} in {self.folder}"
        self.changed()

    def add(self, world: ShelfWorld) -> None:
        """Check a world in the background, then attach it to the stage."""
        if self.busy or not world.usable:
            return
        if self._port.stage() is None:
            self._say("Open or make a stage first.", warning=True)
            return
        self.busy = True
        self.message = f"Checking {world.name} ..."
        self._thread = threading.Thread(target=self._prepare, args=(world.folder,), daemon=True)
        self._thread.start()
        self.changed()

    def update(self) -> None:
        """Take over what the thread finished; runs on the main thread once a frame."""
        try:
            result = self._done.get_nowait()
        except queue.Empty:
            return
        self.busy = False
        stage = self._port.stage()
        if isinstance(result, str):
            self._say(result, warning=True)
        elif stage is None:
            self._say("The stage was closed meanwhile; nothing was added.", warning=True)
        else:
            path = attach_world(stage, result)
            self._port.show(path)
            self._say(f"Added {path}. {' '.join(result.manifest.notices)}".strip())

    def close(self) -> None:
        """Let go of the host; a check that still runs ends by itself and changes nothing."""
        self._updates()
        self._picker()
        self.changed = lambda: None
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _prepare(self, folder: Path) -> None:
        try:
            self._done.put(prepare_world(folder))
        except WorldloomError as error:
            self._done.put(str(error))
        except Exception as error:
            # A thread that ends without a word would leave the window waiting for ever.
            LOGGER.exception("checking %s failed", folder)
            self._done.put(f"{folder} could not be checked: {type(error).__name__}: {error}")

    def _say(self, text: str, *, warning: bool = False) -> None:
        self.message = text
        self._port.notify(text, warning=warning)
        self.changed()


def find_worlds(folder: Path) -> tuple[ShelfWorld, ...]:
    """The worlds in a folder and a little below it, by name; hidden folders are left out."""
    found = []
    waiting = [(folder, 0)]
    while waiting and len(found) < MOST_WORLDS:
        place, depth = waiting.pop()
        if (place / MANIFEST).is_file():
            found.append(describe(place))
            continue
        if depth < SEARCH_DEPTH and place.is_dir():
            waiting += [(sub, depth + 1) for sub in _folders(place)]
    return tuple(sorted(found, key=lambda world: world.name))


def describe(folder: Path) -> ShelfWorld:
    """One world for the list; a damaged one says what is wrong with it."""
    try:
        manifest = open_world(folder)
    except WorldloomError as error:
        return ShelfWorld(folder, prim_name(folder), str(error), usable=False)
    return ShelfWorld(folder, prim_name(folder), _summary(manifest), " ".join(manifest.notices))


def _summary(manifest: Manifest) -> str:
    splats = sum(entry.count for entry in manifest.live("splats"))
    triangles = sum(entry.count for entry in manifest.live("collision"))
    parts = [
        str(manifest.engine.get("preset", "unknown engine")),
        f"{manifest.frames} frames",
        f"{splats / 1000:.0f}k splats",
        f"{triangles / 1000:.0f}k triangles",
        f"scale {manifest.scale.get('status', 'unknown')}",
    ]
    return ", ".join(parts if manifest.complete else [*parts, "not complete"])


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        LOGGER.info("%s cannot be listed: %s", place, error)
        return []
