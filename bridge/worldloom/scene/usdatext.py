"""Values -> USD text (`.usda`) without `pxr`: the same value gives the same bytes everywhere.

Only what `worldfile` and the camera layer need: strings, numbers, tuples and dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from worldloom.scene.errors import CorruptData

INDENT = "    "
INT32_MAX = 2**31 - 1


def usda_string(text: str) -> str:
    """A quoted USD string; control characters become octal escapes, which cannot run on.

    NUL and half surrogates cannot be stored in USD and become the replacement character.
    """
    out = []
    for char in text:
        code = ord(char)
        if code == 0 or 0xD800 <= code <= 0xDFFF:
            out.append("\ufffd")
        elif char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\{code:03o}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def usda_number(value: float) -> str:
    """The shortest text that reads back as the same double; -0 is written as 0.

    Raises:
        CorruptData: The number is not finite.
    """
    value = float(value)
    if not np.isfinite(value):
        raise CorruptData(f"{value} cannot be written to a USD file; every number must be finite")
    # Adding zero turns -0.0 into 0.0.
    text = repr(value + 0.0)
    return text[:-2] if text.endswith(".0") else text


def usda_tuple(values: Iterable[float]) -> str:
    """A tuple such as `(0.1, 1, 10000)`."""
    return "(" + ", ".join(usda_number(value) for value in values) + ")"


def usda_dictionary(values: Mapping[str, Any], *, depth: int) -> list[str]:
    """The lines of `{ ... }` for a dictionary of strings, numbers, booleans, lists of strings.

    None is left out, since USD has no such value. Keys must be identifiers; the order is kept.
    """
    pad = INDENT * depth
    lines = ["{"]
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            inner = usda_dictionary(value, depth=depth + 1)
            lines.append(f"{pad}{INDENT}dictionary {key} = {inner[0]}")
            lines += inner[1:]
        else:
            kind, text = _scalar(value)
            lines.append(f"{pad}{INDENT}{kind} {key} = {text}")
    lines.append(pad + "}")
    return lines


def _scalar(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return "bool", str(int(value))
    if isinstance(value, int):
        return ("int" if abs(value) <= INT32_MAX else "double"), str(value)
    if isinstance(value, float):
        return "double", usda_number(value)
    if isinstance(value, str):
        return "string", usda_string(value)
    return "string[]", "[" + ", ".join(usda_string(str(item)) for item in value) + "]"
