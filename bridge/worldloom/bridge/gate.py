"""Every call passes here first: who calls, in which protocol, and how the call ends.

The services behind it raise our own errors and ask `caller`; the gate makes gRPC statuses of the
first and knows the second. Health checks alone pass without a token.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from worldloom.bridge.channel import PROTOCOL_KEY
from worldloom.bridge.joblogs import about_job
from worldloom.bridge.messages import PROTOCOL
from worldloom.bridge.metrics import Meter
from worldloom.bridge.status import status_of
from worldloom.bridge.tokens import OWNER, Tokens
from worldloom.scene.errors import (
    InvalidRequest,
    NotAuthenticated,
    ServerRefused,
    WorldloomError,
)

LOGGER = logging.getLogger(__name__)
DETAIL_CHARS = 2000  # An error text travels in a header, and headers hold 8 KiB.
OPEN = "/grpc.health.v1.Health/"
"""Calls that anyone may make: they tell nothing but whether this server is of use."""
LOCAL = "local"
"""Owner of everything where callers need no token: this machine's users are one."""
_CALLER: ContextVar[str] = ContextVar("caller")


def caller() -> str:
    """The owner on whose behalf the current call runs."""
    return _CALLER.get()


class Gate(grpc.aio.ServerInterceptor):
    """Stands before all services of a server."""

    def __init__(self, meter: Meter, tokens: Tokens | None = None, *, mtls: bool = False) -> None:
        """Say who may pass.

        Args:
            meter: Counts calls.
            tokens: Whose tokens are known; None asks for none.
            mtls: Without tokens: callers are told apart by their certificates.
        """
        self.tokens = tokens
        self._meter, self._mtls = meter, mtls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, guarded."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        return self._guarded(handler, details.method)

    def _guarded(self, handler: Any, method: str) -> Any:
        """The same handler behind the gate; strangers' messages are not even read."""
        make = getattr(grpc, f"{_form(handler)}_rpc_method_handler")
        inner, read = getattr(handler, _form(handler)), _reader(handler)

        async def single(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._call(method, context):
                return await inner(read(request), context)

        async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._call(method, context))
                messages = await stack.enter_async_context(aclosing(inner(read(request), context)))
                async for message in messages:
                    yield message

        guarded = stream if handler.response_streaming else single
        return make(guarded, None, handler.response_serializer)

    @asynccontextmanager
    async def _call(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        """One call from its admission to its end."""
        began, code = time.monotonic(), "CANCELLED"
        try:
            metadata = dict(context.invocation_metadata() or ())
            _CALLER.set(self._owner(metadata, context.auth_context()))
            check_protocol(metadata.get(PROTOCOL_KEY, ""))
            yield
            code = "OK"
        except grpc.aio.AbortError:
            code = "ABORTED"
            raise
        except Exception as error:  # noqa: BLE001 - the caller hears of every fault
            refusal = _ours(error)
            code = status_of(refusal)[0].name
            await _abort(context, refusal)
        finally:
            self._meter.call(method, code, time.monotonic() - began)

    def _owner(self, metadata: Mapping[str, Any], auth: Mapping[str, Any]) -> str:
        """Whose call this is.

        Raises:
            NotAuthenticated: Nobody's that is known.
        """
        if self.tokens is not None:
            kind, _, token = str(metadata.get("authorization", "")).partition(" ")
            owner = self.tokens.owner(token if kind == "Bearer" else "")
            if owner is None:
                raise NotAuthenticated(
                    "this server needs a token, and the one of this call is not known; ask the "
                    "server's owner for one, and name its file in WORLDLOOM_TOKEN_FILE"
                )
            return owner
        return certificate_owner(auth) if self._mtls else LOCAL


def certificate_owner(auth: Mapping[str, Any]) -> str:
    """The owner that a caller's certificate names: its common name, or a hash where that is none.

    Raises:
        NotAuthenticated: There is no certificate.
    """
    names = auth.get("x509_common_name") or [b""]
    name = bytes(names[0]).decode("utf-8", "replace")
    if OWNER.fullmatch(name):
        return name
    for certificate in auth.get("x509_pem_cert") or ():
        return "certificate-" + hashlib.sha256(bytes(certificate)).hexdigest()[:32]
    raise NotAuthenticated("this server asks for a client certificate; give one with its key")


def check_protocol(told: str) -> None:
    """Refuse a caller who speaks no protocol of ours; one who does not say it is let in.

    Args:
        told: The caller's lowest and highest protocol, as `1-1`; empty when it did not say.

    Raises:
        ServerRefused: The ranges do not meet.
    """
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", told)
    if not told or (found and int(found[1]) <= PROTOCOL <= int(found[2])):
        return
    raise ServerRefused(
        f"this server speaks protocol {PROTOCOL} to {PROTOCOL}, the caller {told[:40]!r}; update "
        "the older of the two"
    )


def _form(handler: Any) -> str:
    """Which of the four kinds of call a handler is, in gRPC's words."""
    asked = "stream" if handler.request_streaming else "unary"
    return f"{asked}_{'stream' if handler.response_streaming else 'unary'}"


def _reader(handler: Any) -> Callable[[Any], Any]:
    """What makes a handler's request of the bytes that came.

    Raises:
        InvalidRequest: They are no such message.
    """

    def single(data: bytes) -> Any:
        try:
            message = handler.request_deserializer(data)
        except DecodeError as error:
            raise InvalidRequest(
                f"the message of {len(data)} bytes cannot be read ({error}); is the caller of "
                "another version, or none of ours?"
            ) from error
        about_job(getattr(message, "name", ""))
        return message

    async def stream(parts: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in parts:
            yield single(data)

    return stream if handler.request_streaming else single


def _ours(error: Exception) -> WorldloomError:
    """An error as one of ours; what is not is logged."""
    if isinstance(error, WorldloomError):
        return error
    LOGGER.error("a call failed", exc_info=error)
    return WorldloomError(f"the server failed: {type(error).__name__}: {error}")


async def _abort(context: grpc.aio.ServicerContext, error: WorldloomError) -> None:
    """End a call with the status of an error."""
    code, trailing = status_of(error)
    await context.abort(code, str(error)[:DETAIL_CHARS], trailing)
