"""The window in plain omni.ui: a folder, its worlds, a button for each, one line of news."""

from __future__ import annotations

from typing import Any

from worldloom.studio.kit_port import KitPort
from worldloom.studio.shelf import Shelf, ShelfWorld

TITLE = "worldloom"
WIDTH, HEIGHT = 480, 420
ROW = 26  # Height of buttons and fields [px].
MUTED, WARM, OFF = 0xFF9A9A9A, 0xFF4FB3F2, 0xFF5A5A5A  # ABGR, as omni.ui wants colours.
STYLE = {"Button.Label:disabled": {"color": OFF}}


class StudioWindow:
    """Shows a Shelf; every change of it redraws the list."""

    def __init__(self, port: KitPort, shelf: Shelf) -> None:
        self._ui = port.ui()
        self._shelf = shelf
        self.buttons: dict[str, Any] = {}
        """Buttons by what they do, for tests."""
        self.window = self._ui.Window(TITLE, width=WIDTH, height=HEIGHT)
        self.window.frame.set_style(STYLE)
        self._build()
        shelf.changed = self._redraw

    @property
    def visible(self) -> bool:
        """Whether the user sees the window."""
        return bool(self.window.visible)

    @visible.setter
    def visible(self, value: bool) -> None:
        self.window.visible = value

    def destroy(self) -> None:
        """Take the window down and let go of everything in it."""
        self._shelf.changed = lambda: None
        self.buttons.clear()
        self._subscription = None
        self.window.visible = False
        self.window.destroy()

    def _build(self) -> None:
        ui = self._ui
        with self.window.frame, ui.VStack(spacing=6):
            with ui.HStack(height=ROW, spacing=4):
                ui.Label("Worlds in", width=70)
                self.field = ui.StringField()
                self.field.model.set_value(self._shelf.folder)
                self._subscription = self.field.model.subscribe_end_edit_fn(
                    lambda model: self._shelf.choose_folder(model.get_value_as_string())
                )
                self._button("browse", "Browse", self._shelf.browse, 70)
                self._button("refresh", "Refresh", self._shelf.refresh, 70)
            ui.Separator(height=2)
            # A frame with a build function is redrawn after the click that asked for it is over.
            self._list = ui.ScrollingFrame(build_fn=self._build_list)
            self.news = ui.Label("", height=40, word_wrap=True, style={"color": MUTED})
        self._redraw()

    def _build_list(self) -> None:
        ui = self._ui
        with ui.VStack(spacing=8, height=0):
            for number, world in enumerate(self._shelf.worlds):
                self._build_row(number, world)

    def _build_row(self, number: int, world: ShelfWorld) -> None:
        ui = self._ui
        with ui.HStack(height=0, spacing=6):
            with ui.VStack(spacing=2, height=0):
                ui.Label(world.name, height=18, tooltip=str(world.folder))
                color = MUTED if world.usable else WARM
                ui.Label(world.summary, height=0, word_wrap=True, style={"color": color})
                if world.notice:
                    ui.Label(world.notice, height=0, word_wrap=True, style={"color": WARM})
            button = self._button(
                f"add {number}", "Add to stage", lambda: self._shelf.add(world), 100
            )
            button.enabled = world.usable and not self._shelf.busy

    def _button(self, key: str, text: str, call: Any, width: int) -> Any:
        button = self._ui.Button(text, clicked_fn=call, width=width, height=ROW)
        self.buttons[key] = button
        return button

    def _redraw(self) -> None:
        self.news.text = self._shelf.message
        if self.field.model.get_value_as_string() != self._shelf.folder:
            self.field.model.set_value(self._shelf.folder)
        self._list.rebuild()
