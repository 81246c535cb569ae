"""Options of safety -> the credentials of the port, or a refusal to open it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from worldloom.bridge.channel import host_of, is_loopback, read_pem
from worldloom.scene.errors import InvalidRequest, ServerRefused


@dataclass(frozen=True)
class Safety:
    """How callers and server prove who they are."""

    tls_cert: Path | None = None
    """The server's certificate and those that lead to its CA (PEM)."""
    tls_key: Path | None = None
    """Private key of `tls_cert` (PEM)."""
    client_ca: Path | None = None
    """CA whose certificates callers must have (mTLS); None asks for none."""
    tokens: Path | None = None
    """File of the callers' hashed tokens; None asks for none."""

    @property
    def knows_callers(self) -> bool:
        """Whether callers prove who they are."""
        return self.tokens is not None or self.client_ca is not None


def check_safety(bind: str, safety: Safety) -> None:
    """Refuse what would let strangers in, before anything is opened.

    Raises:
        ServerRefused: The address is not loopback, and TLS or the callers' proof is missing.
        InvalidRequest: The address is none, or the options do not fit together.
    """
    host = host_of(bind)
    if (safety.tls_cert is None) != (safety.tls_key is None):
        raise InvalidRequest("--tls-cert and --tls-key belong together; give both or none")
    if safety.client_ca is not None and safety.tls_cert is None:
        raise InvalidRequest("--tls-client-ca needs --tls-cert and --tls-key; give all three")
    if is_loopback(host):
        return
    if safety.tls_cert is None:
        raise ServerRefused(
            f"refusing to listen on {bind} without TLS: anyone on the network could read and use "
            "it. Give --tls-cert and --tls-key with --tokens or --tls-client-ca; or bind "
            "127.0.0.1:PORT and reach it through 'ssh -L PORT:127.0.0.1:PORT HOST'"
        )
    if not safety.knows_callers:
        raise ServerRefused(
            f"refusing to listen on {bind} for everybody: give --tokens FILE or --tls-client-ca "
            "FILE, so that only those you know can use it"
        )


def server_credentials(safety: Safety) -> grpc.ServerCredentials | None:
    """Credentials of the port; None for a plain one on loopback.

    With tokens and no TLS, gRPC checks of each connection that both its ends are on this machine.

    Raises:
        InvalidRequest: A file cannot be used, or others can read the key.
    """
    if safety.tls_cert is None or safety.tls_key is None:
        if safety.tokens is None:
            return None
        return grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    key, cert = _read_key(safety.tls_key), read_pem(safety.tls_cert, "certificate")
    ca = None if safety.client_ca is None else read_pem(safety.client_ca, "client CA")
    _check_pair(safety.tls_cert, safety.tls_key, safety.client_ca)
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=ca, require_client_auth=ca is not None
    )


def _read_key(file: Path) -> bytes:
    data = read_pem(file, "private key")
    # A group may read it: that is how system services share keys.
    if file.stat().st_mode & 0o007:
        raise InvalidRequest(
            f"the private key {file} can be read by everybody; say 'chmod o= {file}', and make a "
            "new one if somebody may have seen it"
        )
    return data


def _check_pair(cert: Path, key: Path, client_ca: Path | None) -> None:
    """Try the files: gRPC would only say that the port cannot be opened."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequest(
            f"the certificate {cert}, its key {key} and the client CA {client_ca or '(none)'} do "
            f"not fit together or cannot be read ({error}); a key with a passphrase needs a copy "
            "without one"
        ) from error
