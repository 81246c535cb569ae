"""The port outside Kit: settings in memory, one stage, updates when somebody ticks.

For tests, and to look at the window with PyPI's `ovui` on a machine without Isaac Sim.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from worldloom.studio.kit_port import Release, load_ui


class LocalPort:
    """A host without Kit; what was asked of it can be read back."""

    def __init__(self, *, stage: Any | None = None, folder: str = "") -> None:
        self.settings: dict[str, Any] = {"show_on_startup": True, "worlds_folder": folder}
        self.notices: list[tuple[str, bool]] = []
        """Messages shown, and whether each was a warning."""
        self.shown: list[str] = []
        """Prim paths that were selected and framed."""
        self.updates: list[Callable[[], None]] = []
        self.menus: dict[str, Callable[[], None]] = {}
        self.folder_to_pick = ""
        """What the user will choose in the folder picker."""
        self._stage = stage

    def ui(self) -> ModuleType:
        """The `omni.ui` module of `ovui`."""
        return load_ui()

    def setting(self, name: str) -> Any:
        """The value set last."""
        return self.settings.get(name)

    def remember(self, name: str, value: str) -> None:
        """Set a value for this process."""
        self.settings[name] = value

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Keep the message."""
        self.notices.append((text, warning))

    def stage(self) -> Any | None:
        """The stage given at the start."""
        return self._stage

    def each_update(self, call: Callable[[], None]) -> Release:
        """Call whenever `tick` is called."""
        self.updates.append(call)

        def release() -> None:
            if call in self.updates:
                self.updates.remove(call)

        return release

    def tick(self) -> None:
        """One frame of the main loop."""
        for call in list(self.updates):
            call()

    def add_menu(self, label: str, call: Callable[[], None]) -> Release:
        """Keep the entry."""
        self.menus[label] = call

        def release() -> None:
            self.menus.pop(label, None)

        return release

    def pick_folder(self, start: str, chosen: Callable[[str], None]) -> Release:
        """Choose `folder_to_pick`, or stay where the user is."""
        chosen(self.folder_to_pick or start)
        return lambda: None

    def show(self, prim_path: str) -> None:
        """Keep the path."""
        self.shown.append(prim_path)
