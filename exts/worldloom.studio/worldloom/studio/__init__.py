"""The window: worlds of a folder, added to the stage of Isaac Sim or any Kit application.

Reading order: kit_port (all of Kit that is used), shelf (what the window knows), attach (what
happens to the stage), window, extension. Only kit_port imports omni or carb.
"""

from worldloom.studio.extension import StudioExtension

__all__ = ["StudioExtension"]
