"""A toy generator whose layers hold real splats: for tests that look into them."""

import hashlib

import numpy as np

from worldloom.scene.events import Artifact
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import write_revision

COUNT = 3000


def some_splats(seed, n=COUNT):
    random = np.random.default_rng(seed)
    quats = random.normal(size=(n, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return Splats.from_rgb(
        random.uniform(-2, 2, (n, 3)), random.uniform(0.005, 0.05, (n, 3)), quats,
        random.uniform(0.1, 1, n), random.uniform(size=(n, 3)),
    )  # fmt: skip


def make_world(request, *, inputs, work, resume, emit, cancelled, kind="generate"):
    from worldloom.generator.layers.splat_layer import write_splat_layer

    entries = []
    for tile in range(2):
        part = work / "part.usdc"
        work.mkdir(parents=True, exist_ok=True)
        write_splat_layer(some_splats(tile), part)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        file = work / "world" / "splats" / f"{digest}.usdc"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = part.stat().st_size
        part.replace(file)
        path = f"splats/{digest}.usdc"
        entries.append(FileEntry(path, digest, size, "splats", 0, tile, COUNT))
        emit(Artifact(0, "splats", path, file))
    manifest = Manifest(
        request.hash(), request.to_json(), {"preset": "toy", "weights": []}, {}, 0, 81,
        tuple(entries), notices=("for research only",), complete=True,
    )  # fmt: skip
    write_revision(work / "world", {"manifest.json": manifest.to_bytes()}, revision=0)
    kept = work / "world" / ".revisions" / "0000" / "manifest.json"
    emit(Artifact(0, "manifest", "manifest.json", kept))
    return manifest
