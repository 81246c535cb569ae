"""Numbers that others published, from `published.yaml`: never measured, always with a source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worldloom.scene.errors import CorruptData

SCHEMA = "worldloom.published/1"
FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedTable:
    """One table of a publication."""

    key: str
    title: str
    data: str
    """With what data its authors measured."""
    source: str
    """Publication and table."""
    columns: tuple[str, ...]
    better: tuple[str, ...]
    """`up` or `down` for each column."""
    digits: tuple[int, ...]
    """Digits behind the point in each column, as published."""
    rows: dict[str, tuple[float | None, ...]]
    """Numbers by method; None where none was found."""
    notes: tuple[str, ...] = ()


@cache
def published_tables(file: Path = FILE) -> tuple[PublishedTable, ...]:
    """All tables of the data file.

    Raises:
        CorruptData: The file cannot be read, or a table is incomplete.
    """
    from omegaconf import OmegaConf

    try:
        raw = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        if raw["schema"] != SCHEMA:
            raise CorruptData(f"{file} has schema {raw['schema']!r}; expected {SCHEMA!r}")
        tables = tuple(_table(item, raw["sources"]) for item in raw["tables"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptData(f"{file} cannot be read: {type(error).__name__} {error}") from error
    for table in tables:
        lengths = {
            *map(len, (table.columns, table.better, table.digits)),
            *map(len, table.rows.values()),
        }
        if len(lengths) != 1:
            raise CorruptData(f"table {table.key!r} of {file} has rows of unequal length")
    return tables


def _table(item: dict, sources: dict[str, str]) -> PublishedTable:
    rows = {
        str(name): tuple(None if value is None else float(value) for value in values)
        for name, values in item["rows"].items()
    }
    return PublishedTable(
        item["key"], item["title"], item["data"], sources[item["source"]],
        tuple(item["columns"]), tuple(item["better"]), tuple(item["digits"]), rows,
        tuple(item.get("notes", ())),
    )  # fmt: skip
