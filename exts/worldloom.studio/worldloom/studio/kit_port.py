"""Everything that the studio needs of Kit, behind one Protocol: the only module that imports omni.

`KitPort` is what the rest of the code sees. `OmniPort` does it inside Kit 107 and 110; outside Kit
`local_port.LocalPort` does it, so that all else runs and is tested without Isaac Sim.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

Release = Callable[[], None]
"""Ends what a call of the port began; calling it twice does no harm."""


class KitPort(Protocol):
    """What the studio asks of its host."""

    def ui(self) -> ModuleType:
        """The `omni.ui` module."""

    def setting(self, name: str) -> Any:
        """Value of a setting of this extension; the user's own value before the default."""

    def remember(self, name: str, value: str) -> None:
        """Keep the user's value of a setting between sessions."""

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Show a short message."""

    def stage(self) -> Any | None:
        """The open `Usd.Stage`, or None."""

    def each_update(self, call: Callable[[], None]) -> Release:
        """Call on the main thread once a frame."""

    def add_menu(self, label: str, call: Callable[[], None]) -> Release:
        """Add an entry to the Tools menu."""

    def pick_folder(self, start: str, chosen: Callable[[str], None]) -> Release:
        """Let the user choose a folder."""

    def show(self, prim_path: str) -> None:
        """Select a prim and turn the viewport to it, where there is one."""


def extension_base() -> type:
    """The class that Kit looks for, or plain `object` outside Kit."""
    if find_spec("omni") is None or find_spec("omni.ext") is None:
        return object
    import omni.ext

    return omni.ext.IExt


def extension_folder(ext_id: str) -> Path:
    """Where Kit found the extension."""
    import omni.kit.app

    return Path(omni.kit.app.get_app().get_extension_manager().get_extension_path(ext_id))


def load_ui() -> ModuleType:
    """The `omni.ui` module of Kit, or of PyPI's `ovui` outside it."""
    import omni.ui

    return omni.ui


class OmniPort:
    """The port inside Kit."""

    def __init__(self, ext_id: str) -> None:
        self._id = ext_id
        # An id is name[-tag][-version]; settings are filed by the name.
        self._name = re.split(r"-\d", ext_id)[0]

    def ui(self) -> ModuleType:
        """The `omni.ui` module."""
        return load_ui()

    def setting(self, name: str) -> Any:
        """The user's own value, or the default of extension.toml."""
        import carb.settings

        settings = carb.settings.get_settings()
        own = settings.get(f"/persistent/exts/{self._name}/{name}")
        return own if own not in (None, "") else settings.get(f"/exts/{self._name}/{name}")

    def remember(self, name: str, value: str) -> None:
        """Keep the user's value between sessions."""
        import carb.settings

        carb.settings.get_settings().set(f"/persistent/exts/{self._name}/{name}", value)

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Show a message in the corner; Kit knows no status above WARNING."""
        import carb
        from omni.kit.notification_manager import NotificationStatus, post_notification

        status = NotificationStatus.WARNING if warning else NotificationStatus.INFO
        (carb.log_warn if warning else carb.log_info)(f"[{self._name}] {text}")
        post_notification(text, hide_after_timeout=not warning, duration=5, status=status)

    def stage(self) -> Any | None:
        """The stage of the default context."""
        import omni.usd

        return omni.usd.get_context().get_stage()

    def each_update(self, call: Callable[[], None]) -> Release:
        """Observe the update event; dropping the guard ends it."""
        import carb.eventdispatcher
        import omni.kit.app

        held = [
            carb.eventdispatcher.get_eventdispatcher().observe_event(
                event_name=omni.kit.app.GLOBAL_EVENT_UPDATE,
                on_event=lambda _event: call(),
                observer_name=f"{self._name} update",
            )
        ]
        return held.clear

    def add_menu(self, label: str, call: Callable[[], None]) -> Release:
        """Register an action and a menu entry that runs it."""
        import omni.kit.actions.core
        from omni.kit.menu.utils import MenuItemDescription, add_menu_items, remove_menu_items

        registry = omni.kit.actions.core.get_action_registry()
        registry.register_action(self._id, "open", call, display_name=label)
        items = [MenuItemDescription(name=label, onclick_action=(self._id, "open"))]
        add_menu_items(items, "Tools")

        def release() -> None:
            if items:
                remove_menu_items(list(items), "Tools")
                registry.deregister_all_actions_for_extension(self._id)
                items.clear()

        return release

    def pick_folder(self, start: str, chosen: Callable[[str], None]) -> Release:
        """Kit's file picker, showing folders only."""
        from omni.kit.window.filepicker import FilePickerDialog

        held: list[Any] = []

        def release() -> None:
            while held:
                held.pop().destroy()

        def apply(_filename: str, dirname: str) -> None:
            if held:
                held[0].hide()
            chosen(dirname)

        held.append(
            FilePickerDialog(
                "Folder with worlds",
                allow_multi_selection=False,
                apply_button_label="Choose",
                click_apply_handler=apply,
                click_cancel_handler=lambda _filename, _dirname: held and held[0].hide(),
                item_filter_fn=lambda item: item is None or item.is_folder,
            )
        )
        held[0].show(path=start or None)
        return release

    def show(self, prim_path: str) -> None:
        """Select the prim; frame it when a viewport is open."""
        import omni.usd

        omni.usd.get_context().get_selection().set_selected_prim_paths([prim_path], True)
        if find_spec("omni.kit.viewport.utility") is None:
            return
        from omni.kit.viewport.utility import frame_viewport_prims, get_active_viewport

        viewport = get_active_viewport()
        if viewport is not None:
            frame_viewport_prims(viewport, prims=[prim_path])
