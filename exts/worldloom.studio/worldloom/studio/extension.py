"""The extension's life: on_startup opens the window, on_shutdown leaves nothing behind."""

from __future__ import annotations

from worldloom.studio.kit_port import KitPort, OmniPort, extension_base
from worldloom.studio.vocabulary import find_vocabulary

MENU = "worldloom"


class Studio:
    """Everything that lives between start and stop, on any host."""

    def __init__(self, port: KitPort) -> None:
        # Only now is worldloom.scene sure to be importable.
        from worldloom.studio.shelf import Shelf
        from worldloom.studio.window import StudioWindow

        self.shelf = Shelf(port)
        self.window = StudioWindow(port, self.shelf)
        self.window.visible = bool(port.setting("show_on_startup"))
        self._menu = port.add_menu(MENU, self.open)

    def open(self) -> None:
        """Show the window and read the folder again."""
        self.window.visible = True
        self.shelf.refresh()

    def close(self) -> None:
        """Give back window, menu, updates and thread."""
        self._menu()
        self.shelf.close()
        self.window.destroy()


class StudioExtension(extension_base()):
    """What Kit instantiates; the id it passes is the only place the id comes from."""

    _studio: Studio | None = None

    def on_startup(self, ext_id: str) -> None:
        """Open the window, or say what is missing: an exception would disable the extension."""
        port = OmniPort(ext_id)
        missing = find_vocabulary()
        if missing is not None:
            port.notify(missing, warning=True)
            return
        self._studio = Studio(port)

    def on_shutdown(self) -> None:
        """Leave nothing behind: Kit starts the extension again after every saved file."""
        if self._studio is not None:
            self._studio.close()
            self._studio = None
