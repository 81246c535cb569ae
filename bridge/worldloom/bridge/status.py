"""Our errors <-> gRPC status codes with plain trailing metadata."""

from __future__ import annotations

from typing import Any

import grpc

from worldloom.bridge.messages import plain
from worldloom.scene import errors
from worldloom.scene.errors import ServerBusy, ServerUnreachable, WorldloomError, error_class

Code = grpc.StatusCode
# The most derived class decides; subclasses inherit the code of their parent.
CODES: dict[type[WorldloomError], grpc.StatusCode] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.Conflict: Code.ALREADY_EXISTS,
    errors.WrongOffset: Code.ABORTED,
    errors.CorruptData: Code.DATA_LOSS,
    errors.GateNotMet: Code.FAILED_PRECONDITION,
    errors.ServerUnreachable: Code.UNAVAILABLE,
    errors.ServerBusy: Code.RESOURCE_EXHAUSTED,
    errors.ServerRefused: Code.FAILED_PRECONDITION,
    errors.NotAuthenticated: Code.UNAUTHENTICATED,
    errors.StorageFull: Code.RESOURCE_EXHAUSTED,
    errors.StorageUnwritable: Code.INTERNAL,
    errors.JobCancelled: Code.CANCELLED,
    errors.EngineFailed: Code.INTERNAL,
}


def status_of(error: WorldloomError) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """The gRPC code and the trailing metadata of an error."""
    code = next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), Code.INTERNAL)
    metadata = [("error-code", error.code)]
    if error.field:
        metadata.append(("error-field", _ascii(error.field)))
    if error.retry_after_ms is not None:
        metadata.append(("retry-after-ms", str(error.retry_after_ms)))
    if isinstance(error, errors.WrongOffset):
        metadata.append(("offset", str(error.offset)))
    return code, tuple(metadata)


def error_of(call: Any, address: str) -> WorldloomError:
    """The error that a failed call means to the caller."""
    metadata = dict(call.trailing_metadata() or ())
    text = plain(call.details() or "the server gave no reason")
    code = call.code()
    if "error-code" in metadata:
        retry = metadata.get("retry-after-ms")
        return rebuild_error(
            metadata["error-code"],
            text,
            field=metadata.get("error-field"),
            offset=int(metadata.get("offset", 0)),
            retry_after_ms=None if retry is None else int(retry),
        )
    if code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
        return ServerUnreachable(
            f"no server answers at {address} ({text}). Start one with 'worldloom serve', or check "
            "the address"
        )
    if code == Code.RESOURCE_EXHAUSTED and "larger than max" in text:
        return errors.InvalidRequest(f"the request is too large to send ({text}); shorten it")
    if code == Code.RESOURCE_EXHAUSTED:
        return ServerBusy(f"the server at {address} is full: {text}")
    return WorldloomError(f"the server at {address} failed: {code.name} {text}")


def rebuild_error(
    code: str,
    text: str,
    *,
    field: str | None = None,
    offset: int = 0,
    retry_after_ms: int | None = None,
) -> WorldloomError:
    """An error from its wire identifier and text."""
    cls = error_class(code)
    if cls is errors.WrongOffset:
        return errors.WrongOffset(text, offset=offset, field=field)
    return cls(text, field=field, retry_after_ms=retry_after_ms)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
