"""world.usda: same bytes from a manifest everywhere, safe text, and a stage that composes."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pxr")

from pxr import Sdf, Usd, UsdGeom, UsdPhysics

from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.usdatext import usda_number, usda_string
from worldloom.scene.worldfile import render_world_usda

LAYERS = {
    "splats": ("Chunk", "Gaussians", "ParticleField3DGaussianSplat"),
    "points": ("Chunk", "Points", "Points"),
    "collision": ("Tile", "Mesh", "Mesh"),
    "visual": ("Visual", "Mesh", "Mesh"),
    "cameras_usd": ("Cameras", "Photo", "Camera"),
}


def entry(path, kind, **fields):
    return FileEntry(path, "0" * 64, 1, kind, **fields)


def manifest(*files, **changes):
    base = Manifest(
        "ab" * 32,
        {},
        {"preset": "preview", "weights": [{"name": "w", "licence": "MIT", "research_only": False}]},
        {"status": "estimated", "sigma": 0.1, "value": 1.0},
        chunks=2,
        frames=161,
        files=files,
        code_version="0.1.0",
    )
    return replace(base, **changes)


def grown(revision):
    """The files of a world after `revision` chunks: two tiles, of which one is replaced later."""
    files = [entry("cameras.usda", "cameras_usd", chunk=revision)]
    for chunk in range(revision + 1):
        parts = 2 if chunk == 1 else 1
        for tile in range(parts):
            for kind in ("splats", "points"):
                files.append(
                    entry(f"splats/{kind}{chunk}{tile}.usdc", kind, chunk=chunk, tile=tile)
                )
    files += [entry(f"collision/t{n}.usdc", "collision", chunk=0, tile=n) for n in range(2)]
    files.append(entry("visual/v0.usdc", "visual", chunk=0, tile=0))
    for chunk in range(1, revision + 1):
        old = "collision/t1.usdc" if chunk == 1 else f"collision/t1-{chunk - 1}.usdc"
        new = f"collision/t1-{chunk}.usdc"
        files.append(entry(new, "collision", chunk=chunk, tile=1, supersedes=old))
        files.append(
            entry(f"visual/v{chunk}.usdc", "visual", chunk=chunk, tile=0,
                  supersedes=f"visual/v{chunk - 1}.usdc")
        )  # fmt: skip
    return manifest(*files, chunks=revision, frames=1 + 80 * revision)


def write_small_layers(folder, world):
    """Put a tiny layer of the right shape at the place of every file of a manifest."""
    for item in world.files:
        root, child, kind = LAYERS[item.kind]
        file = folder / item.path
        file.parent.mkdir(parents=True, exist_ok=True)
        suffix = "usda" if item.path.endswith("usda") else "usdc"
        layer = Sdf.Layer.CreateAnonymous(f"x.{suffix}")
        layer.defaultPrim = root
        layer.pseudoRoot.SetInfo("metersPerUnit", 1.0)
        layer.pseudoRoot.SetInfo("upAxis", "Z")
        parent = Sdf.PrimSpec(layer, root, Sdf.SpecifierDef, "Xform")
        Sdf.PrimSpec(parent, child, Sdf.SpecifierDef, kind)
        assert layer.Export(str(file))


def children(stage, path):
    return [child.GetName() for child in stage.GetPrimAtPath(path).GetChildren()]


def composition_errors(stage):
    """Errors of every prim; older OpenUSD has no call for the whole stage."""
    return [error for prim in stage.TraverseAll() for error in prim.GetPrimIndex().localErrors]


@pytest.mark.parametrize("revision", [0, 1, 2])
def test_the_world_composes_after_every_revision_in_every_variant(tmp_path, revision):
    world = grown(revision)
    write_small_layers(tmp_path, world)
    (tmp_path / "world.usda").write_bytes(render_world_usda(world))
    stage = Usd.Stage.Open(str(tmp_path / "world.usda"))
    assert not composition_errors(stage)
    assert stage.GetDefaultPrim().GetPath() == "/World"
    assert Usd.ModelAPI(stage.GetDefaultPrim()).GetKind() == "assembly"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    assert UsdPhysics.GetStageKilogramsPerUnit(stage) == 1
    choice = stage.GetPrimAtPath("/World/Splats").GetVariantSet("splatFormat")
    assert choice.GetVariantSelection() == "particleField"
    assert set(choice.GetVariantNames()) == {"particleField", "points", "none"}
    chunks = {
        0: ["chunk_0000"],
        1: ["chunk_0000", "chunk_0001_00", "chunk_0001_01"],
        2: ["chunk_0000", "chunk_0001_00", "chunk_0001_01", "chunk_0002"],
    }[revision]
    for variant, child in (("particleField", "Gaussians"), ("points", "Points")):
        assert choice.SetVariantSelection(variant)
        assert not composition_errors(stage)
        assert children(stage, "/World/Splats") == chunks
        for name in chunks:
            assert children(stage, f"/World/Splats/{name}") == [child]
    choice.SetVariantSelection("none")
    assert children(stage, "/World/Splats") == []
    assert children(stage, "/World/Collision") == ["tile_0000", "tile_0001"]
    assert children(stage, "/World/Visual") == ["part_0000"]
    assert children(stage, "/World/Cameras") == ["Photo"]
    assert not [p for p in stage.Traverse() if p.GetTypeName() == "PhysicsScene"]


def test_a_replaced_tile_keeps_its_name_and_shows_the_new_file():
    text = render_world_usda(grown(2)).decode()
    assert "@./collision/t1-2.usdc@" in text
    assert "t1-1.usdc" not in text
    assert "@./collision/t1.usdc@" not in text
    assert "visual/v1.usdc" not in text


def test_every_payload_is_anchored_inside_the_world():
    payloads = re.findall("@([^@]*)@", render_world_usda(grown(2)).decode())
    assert len(payloads) == 12
    assert all(path.startswith("./") for path in payloads)


def test_the_picture_is_not_doubled(tmp_path):
    """The preview mesh is hidden where the splats show the same, yet one switch shows it."""
    world = grown(1)
    write_small_layers(tmp_path, world)
    (tmp_path / "world.usda").write_bytes(render_world_usda(world))
    stage = Usd.Stage.Open(str(tmp_path / "world.usda"))

    def seen(path):
        return UsdGeom.Imageable(stage.GetPrimAtPath(path)).ComputeVisibility() == "inherited"

    assert seen("/World/Splats/chunk_0000/Gaussians")
    assert not seen("/World/Visual/part_0000/Mesh")
    UsdGeom.Imageable(stage.GetPrimAtPath("/World/Visual")).MakeVisible()
    assert seen("/World/Visual/part_0000/Mesh")


def test_a_chunk_on_its_own_keeps_its_name_when_others_arrive():
    """Chunk prims may carry transforms and user opinions, so growth must not rename them."""
    for revision in range(2):
        before = re.findall(r'"(chunk_\w+)"', render_world_usda(grown(revision)).decode())
        after = re.findall(r'"(chunk_\w+)"', render_world_usda(grown(revision + 1)).decode())
        assert set(before) <= set(after)


def test_a_cut_world_still_composes_what_is_there(tmp_path):
    """A missing payload is a warning of USD, not a stage that fails to open."""
    world = grown(1)
    write_small_layers(tmp_path, world)
    shutil.rmtree(tmp_path / "visual")
    (tmp_path / "world.usda").write_bytes(render_world_usda(world))
    stage = Usd.Stage.Open(str(tmp_path / "world.usda"))
    assert children(stage, "/World/Collision") == ["tile_0000", "tile_0001"]
    assert composition_errors(stage)


def test_licences_and_notices_travel_in_the_layer():
    weights = [{"name": "Lyra-2.0", "licence": "NSCLv1", "research_only": True}]
    world = manifest(
        engine={"preset": "lyra2", "weights": weights},
        notices=('Research "only".', "Made up\nin parts."),
        photo_sha256="cd" * 32,
    )
    layer = Sdf.Layer.CreateAnonymous(".usda")
    assert layer.ImportFromString(render_world_usda(world).decode())
    said = layer.customLayerData["worldloom"]
    assert list(said["licences"]) == ["NSCLv1"]
    assert list(said["weights"]) == ["Lyra-2.0"]
    assert said["research_only"] is True
    assert list(said["notices"]) == list(world.notices)
    assert said["world_id"] == world.world_id
    assert said["scale_sigma"] == pytest.approx(0.1)
    assert 'Research "only".' in layer.documentation


def test_isaac_sim_does_not_loop_a_simulation_of_an_opened_world():
    layer = Sdf.Layer.CreateAnonymous(".usda")
    layer.ImportFromString(render_world_usda(manifest()).decode())
    assert (layer.startTimeCode, layer.endTimeCode, layer.timeCodesPerSecond) == (0, 1e6, 60)


@pytest.mark.parametrize(
    "path",
    [
        "splats/a.usdc@\n over", "splats/@x.usdc", "/etc/x.usdc", "../x.usdc", "a/../x.usdc",
        "splats/x.py", "splats/é.usdc", "omniverse://host/x.usdc", "splats//x.usdc", "",
        "splats/x.usdc\n", "splats/x.usdc:SDF_FORMAT_ARGS:a=b", "C:/x.usdc",
    ],
)  # fmt: skip
def test_a_path_that_could_leave_the_world_or_its_quotes_is_refused(path):
    with pytest.raises(CorruptData, match="the manifest names the layer"):
        render_world_usda(manifest(entry(path, "splats", chunk=0)))


def test_a_manifest_from_the_wire_cannot_smuggle_usd_into_the_root():
    evil = '"\n    subLayers = [@omniverse://evil/x.usd@]\n    doc = "'
    weights = [{"name": evil, "licence": evil, "research_only": True}]
    world = manifest(
        engine={"preset": evil, "weights": weights},
        notices=(evil,),
        scale={"status": evil, "sigma": 0.5},
        code_version=evil,
    )
    layer = Sdf.Layer.CreateAnonymous(".usda")
    assert layer.ImportFromString(render_world_usda(world).decode())
    assert list(layer.subLayerPaths) == []
    assert layer.customLayerData["worldloom"]["engine"] == evil


def test_tiles_without_a_number_get_one_and_clashing_ones_too():
    plain = [entry(f"collision/{name}.usdc", "collision") for name in "ab"]
    clash = [entry(f"collision/{name}.usdc", "collision", tile=4) for name in "ab"]
    for files in (plain, clash):
        text = render_world_usda(manifest(*files)).decode()
        assert re.findall(r'"(tile_\w+)"', text) == ["tile_0000", "tile_0001"]


def test_the_same_manifest_gives_the_same_bytes_after_a_round_trip():
    world = grown(2)
    again = Manifest.from_bytes(world.to_bytes())
    assert render_world_usda(again) == render_world_usda(world)


def test_the_text_is_what_usd_itself_would_read_and_write():
    """Parsing and printing the root with USD changes nothing that USD knows of."""
    layer = Sdf.Layer.CreateAnonymous(".usda")
    assert layer.ImportFromString(render_world_usda(grown(2)).decode())
    again = Sdf.Layer.CreateAnonymous(".usda")
    assert again.ImportFromString(layer.ExportToString())
    assert again.ExportToString() == layer.ExportToString()


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_string_survives_usd_text(text):
    layer = Sdf.Layer.CreateAnonymous(".usda")
    body = f"#usda 1.0\n(\n    customLayerData = {{ string s = {usda_string(text)} }}\n)\n"
    assert layer.ImportFromString(body)
    assert layer.customLayerData["s"] == text


def test_strings_that_usd_cannot_hold_are_replaced_not_cut():
    assert usda_string("a\0b\ud800c") == '"a\ufffdb\ufffdc"'
    # An escape must not swallow the digit after it.
    layer = Sdf.Layer.CreateAnonymous(".usda")
    body = f"#usda 1.0\n( customLayerData = {{ string s = {usda_string(chr(1) + '7')} }} )\n"
    assert layer.ImportFromString(body)
    assert layer.customLayerData["s"] == "\x017"


@settings(max_examples=150, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_as_the_same_double(value):
    assert float(usda_number(value)) == value


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(CorruptData, match="must be finite"):
        usda_number(np.nan)
    assert usda_number(-0.0) == "0"
    assert usda_number(1e-7) == "1e-07"
