"""The real extension.toml -> its copies at the top of the repository.

The repository itself, cloned into a folder where Kit looks for extensions, is the extension: then
Kit reads config/extension.toml at the top, whose paths have to start there. Run it after every
change of exts/worldloom.studio/config/extension.toml; a test fails when a copy is old.
"""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
EXTENSION = "exts/worldloom.studio"
REAL = f"{EXTENSION}/config/extension.toml"
COPIES = ("config/extension.toml", "extension.toml")
"""Kit reads the first; the second is the same file for people who look beside the README."""
HEADER = f"# Made from {REAL} by tools/sync_extension.py; edit that file, not this one.\n"
PATH_KEYS = ("icon", "preview_image", "changelog", "readme")
MODULE = '[[python.module]]\nname = "worldloom.studio"\n'


def root_manifest(text: str) -> str:
    """The manifest as it has to read at the top of the repository.

    Raises:
        ValueError: The real manifest no longer has the form that this relies on.
    """
    body = re.sub(r"\A(?:#.*\n)+", HEADER, text, count=1)
    for key in PATH_KEYS:
        body, count = re.subn(rf'(?m)^({key} = ")', rf"\g<1>{EXTENSION}/", body)
        if count != 1:
            raise ValueError(f"{REAL} has {count} lines '{key} = ...'; expected one")
    if body.count(MODULE) != 1:
        raise ValueError(f"{REAL} does not have the one python.module that is expected")
    # The package lies deeper than Kit looks from here, so its folder goes on the path first.
    return body.replace(MODULE, f'[[python.module]]\npath = "{EXTENSION}"\n\n{MODULE}')


def main() -> None:
    """Write the copies."""
    text = root_manifest((REPOSITORY / REAL).read_text(encoding="utf-8"))
    for name in COPIES:
        file = REPOSITORY / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
