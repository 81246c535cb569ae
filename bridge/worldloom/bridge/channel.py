"""HOST:PORT and a caller's token or certificate -> a gRPC channel that cannot leak the token.

Beyond this machine every channel is TLS. A token goes only over TLS, or over a connection of which
gRPC itself has checked that both ends are on this machine; there is no third kind with a token.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from worldloom.bridge.messages import PROTOCOL
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.limits import MIB, Limits

TOKEN_FILE, TLS_CA = "WORLDLOOM_TOKEN_FILE", "WORLDLOOM_TLS_CA"
TLS_CERT, TLS_KEY = "WORLDLOOM_TLS_CERT", "WORLDLOOM_TLS_KEY"
PROTOCOL_KEY = "worldloom-protocol"
"""Metadata of every call: the lowest and highest protocol that the caller speaks, as `1-1`."""
UNARY = (
    "GetServer", "StatBlob", "CreateJob", "GetJob", "ListJobs", "CancelJob", "DeleteJob",
)  # fmt: skip
"""Calls that gRPC may repeat by itself; the streams are resumed by the client, where they ended."""
RECONNECT_MS = (200, 2000)
"""First and longest pause of the channel between two tries to connect."""
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "worldloom.bridge.v1.Worlds", "method": name} for name in UNARY],
            "retryPolicy": {
                "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s",
                "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """Who the caller is, and whom it trusts."""

    token_file: Path | None = None
    """File that holds the caller's token and that nobody else can read."""
    token: str = field(default="", repr=False)
    """The token itself, for callers that keep it elsewhere."""
    tls_ca: Path | None = None
    """Certificates that may have signed the server's; None: those that gRPC brings along. With it
    loopback is reached by TLS too."""
    tls_cert: Path | None = None
    """The caller's own certificate, for servers that ask for one (mTLS)."""
    tls_key: Path | None = None
    """Private key of `tls_cert`."""

    @classmethod
    def from_environment(cls) -> Access:
        """What WORLDLOOM_TOKEN_FILE, WORLDLOOM_TLS_CA, _CERT and _KEY say."""
        found = {name: os.environ.get(name) for name in (TOKEN_FILE, TLS_CA, TLS_CERT, TLS_KEY)}
        paths = {name: Path(value) if value else None for name, value in found.items()}
        return cls(
            token_file=paths[TOKEN_FILE], tls_ca=paths[TLS_CA], tls_cert=paths[TLS_CERT],
            tls_key=paths[TLS_KEY],
        )  # fmt: skip

    @property
    def secret(self) -> str:
        """The token; empty when the caller has none.

        Raises:
            InvalidRequest: Its file cannot be read, holds none, or others can read it too.
        """
        if self.token or self.token_file is None:
            return self.token
        text = read_private(self.token_file, "token file").decode("utf-8", "replace").strip()
        if not (text.isascii() and text.isprintable() and text and " " not in text):
            raise InvalidRequest(
                f"{self.token_file} holds no token; it must be the one line that "
                "'worldloom serve --new-token' printed"
            )
        return text


def open_channel(
    address: str, access: Access | None = None, *, limits: Limits | None = None
) -> grpc.Channel:
    """Connect to a server; the first call tells whether somebody answers.

    Args:
        address: HOST:PORT. Hosts other than loopback are reached by TLS only.
        access: Token and certificates; None reads the environment.
        limits: Largest message; None takes the defaults.

    Raises:
        InvalidRequest: The address is none, or a file of `access` cannot be used.
    """
    access = access or Access.from_environment()
    host = host_of(address)
    credentials = _credentials(access, is_loopback(host))
    options = _options(limits or Limits())
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    return grpc.intercept_channel(channel, _SayProtocol())


def host_of(address: str) -> str:
    """The host in HOST:PORT.

    Raises:
        InvalidRequest: That is no address.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise InvalidRequest(
            f"{address[:80]!r} is no address; use HOST:PORT such as 127.0.0.1:50051", field="server"
        )
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine has this host; names other than localhost are not trusted."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_private(file: Path, what: str) -> bytes:
    """A small file that must be nobody else's to read.

    Raises:
        InvalidRequest: It cannot be read, or others can read it too.
    """
    try:
        with file.open("rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            data = source.read(MIB)
    except OSError as error:
        raise InvalidRequest(f"the {what} {file} cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise InvalidRequest(
            f"the {what} {file} can be read by others (mode {mode & 0o777:03o}); say "
            f"'chmod 600 {file}', and make a new token if somebody may have seen it"
        )
    return data


def read_pem(file: Path, what: str) -> bytes:
    """The bytes of a PEM file.

    Raises:
        InvalidRequest: It cannot be read, or is none.
    """
    try:
        with file.open("rb") as source:
            data = source.read(MIB)
    except OSError as error:
        raise InvalidRequest(f"the {what} {file} cannot be read ({error.strerror})") from error
    if b"-----BEGIN " not in data:
        raise InvalidRequest(f"the {what} {file} is no PEM file; it must have a line '-----BEGIN'")
    return data


def _options(limits: Limits) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.http2.max_frame_size", MIB),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS[0]),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
        ("grpc.enable_http_proxy", 0),
    ]


def _credentials(access: Access, loopback: bool) -> grpc.ChannelCredentials | None:
    """None only where neither a token nor TLS is wanted, and only for loopback."""
    tls = not loopback or access.tls_ca is not None or access.tls_cert is not None
    secret = access.secret
    if not tls and not secret:
        return None
    if tls:
        carrier = _tls(access)
    else:
        # It ends the connection unless both ends are on this machine.
        carrier = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    if not secret:
        return carrier
    return grpc.composite_channel_credentials(carrier, grpc.access_token_call_credentials(secret))


def _tls(access: Access) -> grpc.ChannelCredentials:
    if (access.tls_cert is None) != (access.tls_key is None):
        raise InvalidRequest(
            "a client certificate and its key belong together; give both or none", field="tls_cert"
        )
    key = cert = None
    if access.tls_cert is not None and access.tls_key is not None:
        cert = read_pem(access.tls_cert, "client certificate")
        key = read_private(access.tls_key, "client key")
    ca = None if access.tls_ca is None else read_pem(access.tls_ca, "CA file")
    return grpc.ssl_channel_credentials(ca, key, cert)


class _CallDetails(NamedTuple):
    """What gRPC asks of the description of a call."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _SayProtocol(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor, grpc.StreamStreamClientInterceptor,
):  # fmt: skip
    """Adds the protocol range of this client to every call."""

    def _add(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        given: Iterable[tuple[str, str]] = details.metadata or ()
        told = _CallDetails(
            details.method, details.timeout, (*given, (PROTOCOL_KEY, f"{PROTOCOL}-{PROTOCOL}")),
            details.credentials, details.wait_for_ready, details.compression,
        )  # fmt: skip
        return continuation(told, request)

    intercept_unary_unary = intercept_unary_stream = _add
    intercept_stream_unary = intercept_stream_stream = _add
