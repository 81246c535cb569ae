"""Manifest -> `world.usda`, the root that composes a world's layers, as text and without `pxr`.

Server, client and export render it on their own from the same manifest and get the same bytes; a
root that came over the wire is never used. What stands where:

    /World                  assembly; provenance and licences in customLayerData
    /World/Splats           variant set splatFormat: particleField (default), points, none
        chunk_0000 ...      one payload each; chunk_0000_00 ... when a chunk has several files;
                            xformOp:transform where a later correction has moved the chunk
    /World/Collision        tile_0000 ...: exact triangles with physics, purpose guide
    /World/Visual           part_0000 ...: coloured mesh; hidden, since the splats show the same
    /World/Cameras          Photo (still) and Path (animated)

The preview mesh is hidden by `visibility` and not by `purpose`: every viewer obeys visibility, the
eye icon of Isaac Sim's stage panel toggles it, and no viewport setting can show the world twice.
There is no PhysicsScene and no ground plane: a plane would hide holes in the floor.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.usdatext import INDENT, usda_dictionary, usda_number, usda_string

SPLAT_VARIANTS = {"particleField": "splats", "points": "points", "nurec": "nurec", "none": ""}
"""Variant of `splatFormat` -> kind of file in the manifest."""
ALWAYS_OFFERED = ("particleField", "points", "none")
"""Variants that exist even before a file of their kind does."""
DEFAULT_VARIANT = "particleField"

STAGE_TIME = {"endTimeCode": 1_000_000, "startTimeCode": 0, "timeCodesPerSecond": 60}
"""Isaac Sim's own stage defaults: with Kit's 0-100 at 24 a simulation would loop after 4 seconds.
Cameras keep their frame rate in their own layer; USD rescales them."""

LAYER_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*\.usd[acz]?")
"""Paths that may be payloads. Manifests come over the wire: nothing in a path may end the asset
delimiter or point outside the world."""

NOTES = {
    "Splats": "Gaussian splats. Choose points where the viewer knows no ParticleField, "
    "none for physics alone.",
    "Collision": "Exact triangles for physics, wound towards free space.",
    "Visual": "Coloured preview mesh, hidden because the splats show the same surfaces.",
    "Cameras": "The photo's camera, and the generated camera path.",
}


def render_world_usda(manifest: Manifest) -> bytes:
    """The one `world.usda` of this manifest, UTF-8 with a final newline.

    Args:
        manifest: The world at the revision to show; superseded files are left out.

    Raises:
        CorruptData: A layer's path could not be a file of the world, or a number is not finite.
    """
    lines = ["#usda 1.0", "(", *_layer_metadata(manifest), ")", ""]
    lines += ['def Xform "World" (', f'{INDENT}kind = "assembly"', ")", "{"]
    groups = (_splats(manifest), _collision(manifest), _visual(manifest), _cameras(manifest))
    for group in groups:
        lines += [*_indent(group), ""]
    lines[-1] = "}"
    return ("\n".join(lines) + "\n").encode("utf-8")


def _layer_metadata(manifest: Manifest) -> list[str]:
    provenance = usda_dictionary({"worldloom": _provenance(manifest)}, depth=1)
    lines = [
        f"{INDENT}customLayerData = {provenance[0]}",
        *provenance[1:],
        f'{INDENT}defaultPrim = "World"',
        f"{INDENT}doc = {usda_string(_document(manifest))}",
    ]
    values = {"kilogramsPerUnit": 1, "metersPerUnit": 1, **STAGE_TIME}
    lines += [f"{INDENT}{key} = {usda_number(values[key])}" for key in sorted(values)]
    return [*lines, f'{INDENT}upAxis = "Z"']


def _document(manifest: Manifest) -> str:
    said = [f"A world made by worldloom ({manifest.engine.get('preset', 'unknown engine')})."]
    return "\n".join([*said, *manifest.notices])


def _provenance(manifest: Manifest) -> dict[str, Any]:
    weights = manifest.engine.get("weights", [])
    sigma = manifest.scale.get("sigma")
    return {
        "schema": "worldloom.world/1",
        "world_id": manifest.world_id,
        "parents": list(manifest.parents) or None,
        "engine": str(manifest.engine.get("preset", "")),
        "weights": [str(item.get("name", "")) for item in weights] or None,
        "licences": [str(item.get("licence", "unknown")) for item in weights] or None,
        "research_only": manifest.research_only(),
        "notices": list(manifest.notices) or None,
        "photo_sha256": manifest.photo_sha256,
        "depth_source": manifest.depth_source or None,
        "scale_status": str(manifest.scale.get("status", "unknown")),
        "scale_sigma": None if sigma is None else float(sigma),
        "chunks": manifest.chunks,
        "frames": manifest.frames,
        "complete": manifest.complete,
        "code_version": manifest.code_version,
    }


def _splats(manifest: Manifest) -> list[str]:
    lines = [
        'def Xform "Splats" (',
        f"{INDENT}doc = {usda_string(NOTES['Splats'])}",
        f"{INDENT}variants = {{",
        f'{INDENT * 2}string splatFormat = "{DEFAULT_VARIANT}"',
        f"{INDENT}}}",
        f'{INDENT}prepend variantSets = "splatFormat"',
        ")",
        "{",
        f'{INDENT}variantSet "splatFormat" = {{',
    ]
    for variant, kind in SPLAT_VARIANTS.items():
        entries = manifest.live(kind) if kind else []
        if not entries and variant not in ALWAYS_OFFERED:
            continue
        body = [line for prim in _chunks(entries) for line in prim]
        lines += _indent([f'"{variant}" {{', *_indent(body), "}"], depth=2)
    return [*lines, f"{INDENT}}}", "}"]


def _chunks(entries: list[FileEntry]) -> list[list[str]]:
    prims = []
    for chunk, group in groupby(entries, key=lambda entry: entry.chunk or 0):
        files = list(group)
        for number, entry in enumerate(files):
            place = number if entry.tile is None else entry.tile
            part = f"_{place:02d}" if len(files) > 1 else ""
            prims.append(_payload_prim(f"chunk_{chunk:04d}{part}", entry))
    return prims


def _collision(manifest: Manifest) -> list[str]:
    return _group("Collision", _numbered("tile", manifest.live("collision")))


def _visual(manifest: Manifest) -> list[str]:
    hidden = ['token visibility = "invisible"', ""]
    return _group("Visual", _numbered("part", manifest.live("visual")), head=hidden)


def _cameras(manifest: Manifest) -> list[str]:
    entries = manifest.live("cameras_usd")
    if not entries:
        return _group("Cameras", [])
    # Each revision rewrites the one camera file: the newest entry stands for it.
    note = f"doc = {usda_string(NOTES['Cameras'])}"
    return _payload_prim("Cameras", entries[-1], note)


def _group(name: str, prims: list[list[str]], *, head: list[str] | None = None) -> list[str]:
    lines = [f'def Xform "{name}" (', f"{INDENT}doc = {usda_string(NOTES[name])}", ")", "{"]
    for prim in [head or [], *prims]:
        lines += _indent(prim)
    return [*lines, "}"]


def _numbered(stem: str, entries: list[FileEntry]) -> list[list[str]]:
    """One payload prim an entry, named by its tile: a replaced tile keeps its name."""
    places = [number if e.tile is None else e.tile for number, e in enumerate(entries)]
    # Files that name no place, or the same one, are counted instead: names must not collide.
    if len(set(places)) < len(places):
        places = list(range(len(entries)))
    ordered = sorted(zip(places, entries, strict=True), key=lambda pair: pair[0])
    return [_payload_prim(f"{stem}_{place:04d}", entry) for place, entry in ordered]


def _payload_prim(name: str, entry: FileEntry, *metadata: str) -> list[str]:
    if not LAYER_PATH.fullmatch(entry.path):
        raise CorruptData(
            f"the manifest names the layer {entry.path[:80]!r}; a layer's path may hold only "
            "letters, digits, '.', '_', '-' and '/', and must end in .usd, .usda, .usdc or .usdz"
        )
    lines = [f'def Xform "{name}" (', *_indent(list(metadata))]
    return [*lines, f"{INDENT}prepend payload = @./{entry.path}@", ")", "{", *_move(entry), "}"]


def _move(entry: FileEntry) -> list[str]:
    """The transform of a chunk that a later correction has moved; USD multiplies rows from left."""
    if entry.move is None:
        return []
    columns = zip(*entry.move, strict=True)
    rows = ", ".join(f"({', '.join(usda_number(value) for value in row)})" for row in columns)
    return [
        f"{INDENT}matrix4d xformOp:transform = ( {rows} )",
        f'{INDENT}uniform token[] xformOpOrder = ["xformOp:transform"]',
    ]


def _indent(lines: list[str], *, depth: int = 1) -> list[str]:
    return [INDENT * depth + line if line else line for line in lines]
