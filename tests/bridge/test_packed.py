"""Splats for slow links: packed by the server on demand, told with their own hash, lossy."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pytest

pytest.importorskip("pxr")

from tests.bridge.conftest import Server
from tests.bridge.splat_toy import COUNT, some_splats
from worldloom.bridge.blobs import Blobs
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.packing import Packing
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.cli.main import main
from worldloom.generator.layers.splat_layer import write_splat_layer
from worldloom.scene.errors import InvalidRequest, NotFound
from worldloom.scene.limits import Limits
from worldloom.scene.packed_ply import load_packed
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import check_files


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(
        tmp_path_factory.mktemp("packed") / "store", extra=("--target", "splat_toy:make_world")
    )
    yield running
    code, _, err = running.end()
    assert code == 0, err


@pytest.fixture
def layer(client, tmp_path):
    """Upload a layer file; its reference."""

    def put(file):
        data = file.read_bytes()
        ref = InputRef("photo", hashlib.sha256(data).hexdigest(), len(data))
        client.upload(ref, file)
        return ArtifactRef(0, "splats", "splats/x.usdc", ref.sha256, ref.bytes)

    return put


def splat_file(tmp_path, seed):
    file = tmp_path / "layer.usdc"
    write_splat_layer(some_splats(seed), file)
    return file


def test_a_packed_layer_is_a_third_and_nearly_the_same(client, layer, tmp_path):
    ref = layer(splat_file(tmp_path, 11))
    file = client.fetch_packed(ref, tmp_path / "p.ply")
    same = some_splats(11)
    same = same.select(same.morton_order())
    assert np.abs(load_packed(file).means - same.means).max() < 0.005
    assert file.stat().st_size < ref.bytes / 3


def test_the_packed_form_has_a_hash_of_its_own_and_can_be_read_in_pieces(
    client, server, layer, tmp_path
):
    ref = layer(splat_file(tmp_path, 12))
    data = client.fetch_packed(ref, tmp_path / "p.ply").read_bytes()
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        request = pb.ReadBlobRequest(sha256=ref.sha256, offset=1000, encoding="packed")
        parts = list(stub.ReadBlob(request))
    assert parts[0].sha256 == hashlib.sha256(data).hexdigest()
    assert parts[0].total == len(data)
    assert b"".join(part.data for part in parts) == data[1000:]


def test_many_readers_at_once_are_served_by_one_packing(client, server, layer, tmp_path):
    ref = layer(splat_file(tmp_path, 13))
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda n: client.fetch_packed(ref, tmp_path / f"{n}.ply"), range(8)))
    assert len({file.read_bytes() for file in files}) == 1
    packed = list((server.store / "packed").glob(f"{ref.sha256}*"))
    assert len(packed) == 1
    assert packed[0].suffix == ".ply"


def test_what_is_no_splat_layer_is_refused(client, layer, tmp_path):
    for text in (b"no layer at all", b"#usda 1.0\n", b"PXR-USDC" + bytes(100)):
        (tmp_path / "x").write_bytes(text)
        with pytest.raises(InvalidRequest, match="is no splat layer that can be packed") as caught:
            client.fetch_packed(layer(tmp_path / "x"), tmp_path / "p.ply")
        assert caught.value.field == "encoding"
    script = b'#usda 1.0\ndef Xform "C" {\n def OmniGraphNode "N" {\n }\n}\n'
    (tmp_path / "x").write_bytes(script)
    with pytest.raises(InvalidRequest, match="OmniGraphNode"):
        client.fetch_packed(layer(tmp_path / "x"), tmp_path / "p.ply")
    assert not (tmp_path / "p.ply").exists()


def test_an_unknown_encoding_and_the_blobs_of_others_are_refused(client, server, layer, tmp_path):
    ref = layer(splat_file(tmp_path, 14))
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ReadBlob(pb.ReadBlobRequest(sha256=ref.sha256, encoding="zip")))
    assert "unknown encoding 'zip'; use packed" in caught.value.details()
    with pytest.raises(NotFound):
        client.fetch_packed(replace(ref, sha256="ab" * 32), tmp_path / "p.ply")


def test_a_server_that_cannot_pack_is_told(client, layer, tmp_path, monkeypatch):
    ref = layer(splat_file(tmp_path, 15))
    read = client._stub.ReadBlob

    def older(request):
        return read(pb.ReadBlobRequest(sha256=request.sha256, offset=request.offset))

    monkeypatch.setattr(client._stub, "ReadBlob", older)
    with pytest.raises(InvalidRequest, match="cannot pack splats; fetch them as they are"):
        client.fetch_packed(ref, tmp_path / "p.ply")


def test_packed_files_go_with_their_blobs_and_have_a_limit(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path / "blobs", Limits())
    packing = Packing(blobs, tmp_path)
    (tmp_path / "packed").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
        digest, _ = blobs.adopt(tmp_path / name)
        (tmp_path / "packed" / f"{digest}.{'0' * 64}.ply").write_bytes(bytes(100))
    blobs.remove(digest)
    packing._prune()
    assert len(list((tmp_path / "packed").iterdir())) == 2
    monkeypatch.setattr("worldloom.bridge.packing.KEPT_BYTES", 150)
    packing._prune()
    assert len(list((tmp_path / "packed").iterdir())) == 1


def test_a_look_at_a_world_is_fetched_by_the_command(
    client, server, submit, tools, tmp_path, capsys
):
    job = submit()
    tools.end_of(client, job.name)
    arguments = ["fetch", job.name, "--out", str(tmp_path / "w"), "--server", server.address]
    assert main([*arguments, "--packed"]) == 0
    said = capsys.readouterr().out
    assert "lossy" in said
    index = json.loads((tmp_path / "w" / "look" / "look.json").read_text())
    assert (index["lossy"], index["notices"]) == (True, ["for research only"])
    for entry in index["files"]:
        assert load_packed(tmp_path / "w" / "look" / entry["file"]).n == COUNT == entry["splats"]
    # The exact world comes into the same folder later.
    assert main(arguments) == 0
    world = follow(client, job, tmp_path / "w")
    assert check_files(tmp_path / "w", world) == []
