"""Ports that open for nobody, certificates of others, and tokens on open wires."""

import socket
import threading

import grpc
import pytest
from certificates import Authority

from worldloom.bridge import channel as channels
from worldloom.bridge.channel import Access
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.cli.main import main
from worldloom.scene.errors import NotFound, ServerUnreachable, WorldloomError

REFUSED = {
    "all addresses": ((), 4, "without TLS"),
    "tokens alone": (("tokens",), 4, "without TLS"),
    "TLS alone": (("cert", "key"), 4, "for everybody"),
    "no key": (("cert", "tokens"), 2, "belong together"),
    "no certificate": (("key", "tokens"), 2, "belong together"),
    "client CA alone": (("ca",), 2, "needs --tls-cert"),
    "open key": (("cert", "open-key", "tokens"), 2, "chmod o="),
    "key for a certificate": (("key-as-cert", "key", "tokens"), 2, "do not fit together"),
    "another key": (("cert", "other-key", "tokens"), 2, "do not fit together"),
    "no PEM": (("tokens-as-cert", "key", "tokens"), 2, "no PEM file"),
    "no file": (("no-cert", "key", "tokens"), 2, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_no_port_opens_for_strangers(case, host, tmp_path, authority, token_file, tokens, capsys):
    given, code, said = REFUSED[case]
    cert, key = authority.issue("server")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    options = {
        "cert": ("--tls-cert", cert), "key": ("--tls-key", key), "tokens": ("--tokens", token_file),
        "ca": ("--tls-client-ca", authority.file), "open-key": ("--tls-key", open_key),
        "other-key": ("--tls-key", authority.issue("server")[1]),
        "key-as-cert": ("--tls-cert", key), "tokens-as-cert": ("--tls-cert", token_file),
        "no-cert": ("--tls-cert", tmp_path / "none"),
    }  # fmt: skip
    extra = [str(word) for name in given for word in options[name]]
    command = ["serve", "--bind", f"{host}:0", "--store", str(tmp_path / "s"), *extra]
    assert main(command) == code
    assert said in capsys.readouterr().err


def test_callers_are_told_apart_by_their_certificates(
    start, authority, tmp_path, photo, world_request, tools
):
    cert, key = authority.issue("server")
    server = start(
        extra=[str(e) for e in ("--tls-cert", cert, "--tls-key", key,
                                "--tls-client-ca", authority.file)]
    )  # fmt: skip

    def client(name, signer=authority, days=1):
        mine, secret = signer.issue(name, hosts=(), days=days)
        access = Access(tls_ca=authority.file, tls_cert=mine, tls_key=secret)
        return WorldsClient(server.address, access=access, away_s=0.1)

    with client("ann") as ann, client("bob") as bob, client("") as unnamed:
        job = ann.submit(world_request(chunks=1), {"photo": photo})
        assert tools.end_of(ann, job.name).state == "done"
        for other in (bob, unnamed):
            assert other.jobs() == []
            with pytest.raises(NotFound):
                other.job(job.name)
        with client("ann") as again:
            assert [found.name for found in again.jobs()] == [job.name]
    strangers = [
        client("ann", Authority(tmp_path / "other", "test authority")), client("ann", days=-1),
        WorldsClient(server.address, access=Access(tls_ca=authority.file), away_s=0.1),
        WorldsClient(server.address, access=Access(), away_s=0.1),
    ]  # fmt: skip
    for stranger in strangers:
        with stranger, pytest.raises(ServerUnreachable):
            stranger.jobs()


def test_a_server_of_another_name_or_authority_is_not_trusted(
    start, authority, tmp_path, tokens, token_file
):
    import ipaddress

    from cryptography import x509

    elsewhere = x509.IPAddress(ipaddress.ip_address("10.9.8.7"))
    other = Authority(tmp_path / "other")
    for signer, hosts in ((authority, (elsewhere,)), (other, (elsewhere,))):
        cert, key = signer.issue("server", hosts=hosts)
        server = start(
            f"store-{len(hosts)}-{signer is other}",
            extra=[str(e) for e in ("--tls-cert", cert, "--tls-key", key, "--tokens", token_file)],
        )
        access = Access(token=tokens["ann"], tls_ca=authority.file)
        connect = WorldsClient(server.address, access=access, away_s=0.1)
        with connect as client, pytest.raises(ServerUnreachable):
            client.jobs()


class Listener:
    """Takes a connection and keeps what comes."""

    def __init__(self, host="127.0.0.1"):
        self._socket = socket.create_server((host, 0))
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self.heard, self.first = b"", threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        self._socket.settimeout(10)
        try:
            near, _ = self._socket.accept()
        except OSError:
            return
        with near:
            near.settimeout(1)
            # A server that speaks plain HTTP/2 would now be told the headers.
            near.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            try:
                while data := near.recv(65536):
                    self.heard += data
                    self.first.set()
            except OSError:
                return

    def close(self):
        self._thread.join()
        self._socket.close()


def test_a_token_is_never_sent_in_the_clear_beyond_this_machine(monkeypatch):
    monkeypatch.setattr(channels, "is_loopback", lambda host: False)
    listener, secret = Listener(), "a-secret-token-of-ann"
    with WorldsClient(listener.address, access=Access(token=secret), away_s=0.1) as client:
        with pytest.raises(WorldloomError):
            client.jobs()
        assert listener.first.wait(10)
    listener.close()
    assert listener.heard[:2] == b"\x16\x03"  # The beginning of a TLS handshake.
    assert secret.encode() not in listener.heard


def own_address():
    """An address of this machine that is not loopback, or none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing: it only chooses a route.
        except OSError:
            return None
        return probe.getsockname()[0]


@pytest.mark.skipif(own_address() is None, reason="this machine has loopback only")
def test_a_host_that_only_claims_to_be_local_gets_no_token(monkeypatch):
    monkeypatch.setattr(channels, "is_loopback", lambda host: True)
    listener, secret = Listener(own_address()), "a-secret-token-of-ann"
    connect = WorldsClient(listener.address, access=Access(token=secret), away_s=0.1)
    refused = pytest.raises(ServerUnreachable, match="neither UDS or TCP loopback")
    with connect as client, refused:
        client.jobs()
    listener.close()
    assert secret.encode() not in listener.heard


def test_a_plain_caller_gets_nothing_from_a_port_with_tls(start, authority):
    cert, key = authority.issue("server")
    server = start(extra=("--tls-cert", str(cert), "--tls-key", str(key)))
    with grpc.insecure_channel(server.address) as plain, pytest.raises(grpc.RpcError) as caught:
        rpc.WorldsStub(plain).GetServer(pb.GetServerRequest(), timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
