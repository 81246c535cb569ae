"""Layers from elsewhere: plain geometry passes, everything that could act is named and refused."""

import pytest

pytest.importorskip("pxr")

from pxr import Gf, Sdf, Usd, UsdGeom, Vt

from worldloom.scene.errors import CorruptData
from worldloom.scene.trust import MOST_PROBLEMS, vet_layer, vet_layer_file


def plain():
    """An honest chunk: a splat prim below a typed root."""
    layer = Sdf.Layer.CreateAnonymous(".usda")
    layer.defaultPrim = "Chunk"
    root = Sdf.PrimSpec(layer, "Chunk", Sdf.SpecifierDef, "Xform")
    prim = Sdf.PrimSpec(root, "Gaussians", Sdf.SpecifierDef, "ParticleField3DGaussianSplat")
    points = Sdf.AttributeSpec(prim, "positions", Sdf.ValueTypeNames.Point3fArray)
    points.default = Vt.Vec3fArray([Gf.Vec3f(0, 0, 0)])
    layer.customLayerData = {"worldloom": {"schema": "worldloom.layer/1"}}
    return layer


def reference(layer):
    layer.GetPrimAtPath("/Chunk").referenceList.Prepend(Sdf.Reference("omniverse://evil/x.usd"))


def payload(layer):
    layer.GetPrimAtPath("/Chunk/Gaussians").payloadList.Prepend(Sdf.Payload("/etc/x.usda"))


def inherit(layer):
    layer.GetPrimAtPath("/Chunk").inheritPathList.Prepend("/World/Robot")


def specialize(layer):
    layer.GetPrimAtPath("/Chunk").specializesList.Prepend("/World/Robot")


def sublayer(layer):
    layer.subLayerPaths.append("https://evil/x.usd")


def variants(layer):
    variant = Sdf.VariantSetSpec(layer.GetPrimAtPath("/Chunk"), "look")
    Sdf.VariantSpec(variant, "hidden").primSpec.referenceList.Prepend(Sdf.Reference("x.usd"))
    layer.GetPrimAtPath("/Chunk").variantSetNameList.Prepend("look")


def clips(layer):
    stage = Usd.Stage.Open(layer)
    Usd.ClipsAPI(stage.GetPrimAtPath("/Chunk")).SetClipAssetPaths([Sdf.AssetPath("x.usd")])


def graph(layer):
    parent = layer.GetPrimAtPath("/Chunk")
    node = Sdf.PrimSpec(parent, "Node", Sdf.SpecifierDef, "OmniGraphNode")
    text = Sdf.AttributeSpec(node, "inputs:script", Sdf.ValueTypeNames.String)
    text.default = "print(1)"


def untyped(layer):
    Sdf.PrimSpec(layer.GetPrimAtPath("/Chunk"), "Later", Sdf.SpecifierOver)


def script_schema(layer):
    listed = Sdf.TokenListOp.Create(prependedItems=["OmniScriptingAPI"])
    layer.GetPrimAtPath("/Chunk").SetInfo("apiSchemas", listed)


def appended_schema(layer):
    listed = Sdf.TokenListOp.Create(appendedItems=["OmniScriptingAPI"])
    layer.GetPrimAtPath("/Chunk").SetInfo("apiSchemas", listed)


def asset(layer):
    prim = layer.GetPrimAtPath("/Chunk/Gaussians")
    Sdf.AttributeSpec(prim, "inputs:file", Sdf.ValueTypeNames.Asset).default = Sdf.AssetPath("x")


def asset_array(layer):
    prim = layer.GetPrimAtPath("/Chunk/Gaussians")
    Sdf.AttributeSpec(prim, "omni:scripting:scripts", Sdf.ValueTypeNames.AssetArray)


def asset_in_data(layer):
    layer.customLayerData = {"a": {"b": Sdf.AssetPath("x.usd")}}


def asset_info(layer):
    layer.GetPrimAtPath("/Chunk").SetInfo("assetInfo", {"identifier": Sdf.AssetPath("x.usd")})


def shader_source(layer):
    parent = layer.GetPrimAtPath("/Chunk")
    shader = Sdf.PrimSpec(parent, "Look", Sdf.SpecifierDef, "Shader")
    text = Sdf.AttributeSpec(shader, "info:glslfx:sourceCode", Sdf.ValueTypeNames.String)
    text.default = "while(true);"


def light(layer):
    Sdf.PrimSpec(layer.GetPrimAtPath("/Chunk"), "Sun", Sdf.SpecifierDef, "DistantLight")


HOSTILE = {
    reference: "references", payload: "payload", inherit: "inheritPaths",
    specialize: "specializes", sublayer: "sublayer", variants: "variantSetNames",
    clips: "clips", graph: "OmniGraphNode", untyped: "prim type ''",
    script_schema: "OmniScriptingAPI", appended_schema: "OmniScriptingAPI",
    asset: "asset path", asset_array: "asset path", asset_in_data: "asset path",
    asset_info: "assetInfo", shader_source: "shader source", light: "DistantLight",
}  # fmt: skip


def test_plain_geometry_may_be_attached(tmp_path):
    assert vet_layer(plain()) == []
    assert plain().Export(str(tmp_path / "a.usdc"))
    assert vet_layer_file(tmp_path / "a.usdc") == []


@pytest.mark.parametrize("suffix", ["usda", "usdc"])
@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_what_could_act_is_refused(tmp_path, attack, suffix):
    layer = plain()
    attack(layer)
    assert layer.Export(str(tmp_path / f"a.{suffix}"))
    problems = vet_layer_file(tmp_path / f"a.{suffix}")
    assert any(HOSTILE[attack] in problem for problem in problems), problems


def test_a_hostile_layer_composes_silently_without_the_check(tmp_path):
    """Why the check exists: USD itself brings the script node onto the stage without a word."""
    layer = plain()
    graph(layer)
    assert layer.Export(str(tmp_path / "a.usdc"))
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.Xform.Define(stage, "/World/c").GetPrim().GetPayloads().AddPayload(
        str(tmp_path / "a.usdc")
    )
    assert stage.GetPrimAtPath("/World/c/Node").GetAttribute("inputs:script").Get() == "print(1)"
    assert vet_layer_file(tmp_path / "a.usdc")


def test_the_list_of_problems_stays_short():
    layer = plain()
    for number in range(500):
        Sdf.PrimSpec(layer.GetPrimAtPath("/Chunk"), f"l{number}", Sdf.SpecifierDef, "RectLight")
    assert len(vet_layer(layer)) == MOST_PROBLEMS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.usdz", b"PK", "no .usdc or .usda"),
        ("a.abc", b"x", "no .usdc or .usda"),
        ("a.usdc", b"#usda 1.0\n", "does not begin like"),
        ("a.usda", b"PXR-USDC", "does not begin like"),
        ("a.usda", b"", "does not begin like"),
        ("a.usdc", b"PXR-USDC" + bytes(200), "damaged"),
        ("a.usda", b"#usda 1.0\n( nonsense", "damaged"),
    ],
)
def test_files_that_are_something_else_are_not_opened(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptData, match=message):
        vet_layer_file(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptData, match=r"absent\.usdc cannot be read"):
        vet_layer_file(tmp_path / "absent.usdc")
