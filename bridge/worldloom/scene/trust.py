"""A USD layer from elsewhere -> what in it is not plain geometry; nothing when it can be attached.

Composition runs no code, but what it brings onto a stage can: scripting schemas, graphs, and any
asset path that makes the viewer read other files or call other servers. So a fetched layer is
opened off-stage and everything in it is held against lists of what geometry needs; what is on no
list is refused. The generator's validator and the extension use this same check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldloom.scene.errors import CorruptData

PRIM_TYPES = frozenset(
    {
        "Xform", "Scope", "Mesh", "Points", "ParticleField3DGaussianSplat", "Volume",
        "OmniNuRecFieldAsset", "Camera", "BasisCurves", "Material", "Shader",
    }
)  # fmt: skip
API_SCHEMAS = frozenset(
    {
        "PhysicsCollisionAPI", "PhysicsMeshCollisionAPI", "PhysicsMaterialAPI",
        "MaterialBindingAPI", "SemanticsLabelsAPI", "GeomModelAPI",
    }
)  # fmt: skip
LAYER_FIELDS = frozenset(
    {
        "defaultPrim", "metersPerUnit", "kilogramsPerUnit", "upAxis", "customLayerData",
        "documentation", "comment", "startTimeCode", "endTimeCode", "timeCodesPerSecond",
        "framesPerSecond",
    }
)  # fmt: skip
PRIM_FIELDS = frozenset(
    {
        "specifier", "typeName", "apiSchemas", "kind", "documentation", "comment", "active",
        "instanceable", "primOrder", "propertyOrder",
    }
)  # fmt: skip
PROPERTY_FIELDS = frozenset(
    {
        "typeName", "custom", "variability", "default", "timeSamples", "interpolation",
        "elementSize", "documentation", "comment", "targetPaths", "connectionPaths",
        "allowedTokens", "colorSpace",
    }
)  # fmt: skip
MAGIC = {".usdc": b"PXR-USDC", ".usda": b"#usda 1.0"}
"""How the two file formats begin; by extension alone USD would hand a file to any plugin."""
MOST_PROBLEMS = 20  # A hostile file could hold millions; nobody reads more lines than this.


def vet_layer_file(file: Path) -> list[str]:
    """What in a layer file is not plain geometry, one line each; empty when it may be attached.

    Opens the file off-stage: nothing is composed, and no other file is read.

    Raises:
        CorruptData: The file is missing, or no `.usdc` or `.usda`.
    """
    from pxr import Sdf, Tf

    magic = MAGIC.get(file.suffix)
    if magic is None:
        raise CorruptData(f"{file.name} is no .usdc or .usda file; no other layer is opened")
    try:
        with file.open("rb") as source:
            begin = source.read(len(magic))
    except OSError as error:
        raise CorruptData(f"{file} cannot be read ({error.strerror})") from error
    if begin != magic:
        raise CorruptData(f"{file} does not begin like a {file.suffix} file")
    try:
        layer = Sdf.Layer.OpenAsAnonymous(str(file))
    except Tf.ErrorException as error:
        raise CorruptData(f"{file} is damaged: USD cannot read it") from error
    if layer is None:
        raise CorruptData(f"{file} is damaged: USD cannot read it")
    return vet_layer(layer)


def vet_layer(layer: Any) -> list[str]:
    """What in an open `Sdf.Layer` is not plain geometry, one line each, at most MOST_PROBLEMS."""
    problems: list[str] = []
    for problem in _problems(layer):
        problems.append(problem)
        if len(problems) == MOST_PROBLEMS:
            break
    return problems


def _problems(layer: Any) -> Iterator[str]:
    for sublayer in layer.subLayerPaths:
        yield f"/: sublayer {str(sublayer)[:80]!r}"
    yield from _fields(layer.pseudoRoot, LAYER_FIELDS | {"subLayers", "subLayerOffsets"}, "/")
    if _holds_asset(layer.customLayerData):
        yield "/: customLayerData holds an asset path"
    waiting = list(layer.rootPrims)
    while waiting:
        prim = waiting.pop()
        yield from _prim_problems(prim)
        waiting += prim.nameChildren


def _prim_problems(prim: Any) -> Iterator[str]:
    where = str(prim.path)
    # An `over` without a type could complete a prim of another file into something else.
    if prim.typeName not in PRIM_TYPES:
        yield f"{where}: prim type {prim.typeName!r}"
    for schema in _schemas(prim):
        if schema.split(":")[0] not in API_SCHEMAS:
            yield f"{where}: API schema {schema!r}"
    yield from _fields(prim, PRIM_FIELDS, where)
    for item in prim.properties:
        yield from _property_problems(item, f"{where}.{item.name}")


def _property_problems(item: Any, where: str) -> Iterator[str]:
    yield from _fields(item, PROPERTY_FIELDS, where)
    kind = str(getattr(item, "typeName", ""))
    if kind.startswith("asset"):
        yield f"{where}: asset path"
    elif item.name.startswith("info:") and item.name != "info:id":
        yield f"{where}: shader source"


def _fields(spec: Any, allowed: frozenset[str], where: str) -> Iterator[str]:
    """Fields of a spec that are on no list: every composition arc is such a field."""
    for field in spec.ListInfoKeys():
        if field not in allowed:
            yield f"{where}: field {field!r}"


def _schemas(prim: Any) -> list[str]:
    listed = prim.GetInfo("apiSchemas") if prim.HasInfo("apiSchemas") else None
    if listed is None:
        return []
    return [str(name) for name in listed.GetAddedOrExplicitItems()]


def _holds_asset(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.values()
        # Known by name, so that no OpenUSD has to be imported here.
        elif type(item).__name__.startswith("Asset"):
            return True
    return False
