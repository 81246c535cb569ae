"""Small worlds made by hand, so that these tests need nothing but OpenUSD and the scene package."""

import hashlib
from dataclasses import replace

import pytest

pytest.importorskip("pxr")

from pxr import Sdf

from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfile import render_world_usda

LAYERS = {
    "splats": ("splats/{}.usdc", "Chunk", "Gaussians", "ParticleField3DGaussianSplat"),
    "points": ("splats/{}.usdc", "Chunk", "Points", "Points"),
    "collision": ("collision/{}.usdc", "Tile", "Mesh", "Mesh"),
    "visual": ("visual/{}.usdc", "Visual", "Mesh", "Mesh"),
    "cameras_usd": ("cameras.usda", "Cameras", "Photo", "Camera"),
}


def small_layer(kind):
    """An empty layer of the right shape."""
    path, root, child, prim_type = LAYERS[kind]
    layer = Sdf.Layer.CreateAnonymous("x" + path[-5:])
    layer.defaultPrim = root
    layer.pseudoRoot.SetInfo("metersPerUnit", 1.0)
    layer.pseudoRoot.SetInfo("upAxis", "Z")
    Sdf.PrimSpec(Sdf.PrimSpec(layer, root, Sdf.SpecifierDef, "Xform"), child, Sdf.SpecifierDef,
                 prim_type)  # fmt: skip
    return layer


def write_world(folder, *, spoil=None, **changes):
    """A finished world with one file of each kind; `spoil(kind, layer)` may add to a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, (path, *_) in LAYERS.items():
        layer = small_layer(kind)
        if spoil:
            spoil(kind, layer)
        part = folder / ("part" + path[-5:])
        assert layer.Export(str(part))
        data = part.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        file = folder / path.format(digest)
        file.parent.mkdir(exist_ok=True)
        part.rename(file)
        name = str(file.relative_to(folder))
        files.append(FileEntry(name, digest, len(data), kind, chunk=0, tile=0, count=1000))
    manifest = Manifest(
        "ab" * 32, {}, {"preset": "preview", "weights": []}, {"status": "estimated", "sigma": 0.1},
        chunks=1, frames=81, files=tuple(files), complete=True,
    )  # fmt: skip
    manifest = replace(manifest, **changes)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    (folder / "world.usda").write_bytes(render_world_usda(manifest))
    return folder


def smuggle_graph(kind, layer):
    """A script node in the preview mesh's layer."""
    if kind == "visual":
        root = layer.GetPrimAtPath("/Visual")
        Sdf.PrimSpec(root, "Node", Sdf.SpecifierDef, "OmniGraphNode")


@pytest.fixture
def make_world():
    """`write_world`."""
    return write_world


@pytest.fixture
def hostile():
    """A `spoil` for `write_world`."""
    return smuggle_graph
