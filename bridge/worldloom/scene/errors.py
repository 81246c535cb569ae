"""Our own errors: the same classes become exit codes, gRPC statuses and Kit notifications.

Each message states what is wrong, the value found, the limit, and the remedy. `exit_code` follows
the table of the command line: 2 bad input, 3 gate not met, 4 server, 5 engine, 6 storage, 130 stop.
"""

from __future__ import annotations


class WorldloomError(Exception):
    """Base of every error that worldloom raises on purpose."""

    code = "internal"
    """Stable identifier on the wire (trailing metadata `error-code`)."""
    exit_code = 5
    """Exit status of the command line."""

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.retry_after_ms = retry_after_ms


class InvalidRequest(WorldloomError):
    """Some input is not acceptable; nothing was started."""

    code = "invalid-request"
    exit_code = 2


class InvalidCameraPath(InvalidRequest):
    """A camera path has a bad pose, jump, length or file."""

    code = "invalid-camera-path"


class InvalidPhoto(InvalidRequest):
    """The photo is not a still PNG, JPEG or WebP image that can be decoded."""

    code = "invalid-photo"


class PhotoTooLarge(InvalidPhoto):
    """The photo exceeds the byte or pixel limit."""

    code = "photo-too-large"


class InvalidDepth(InvalidRequest):
    """A supplied depth map has the wrong form, size or values."""

    code = "invalid-depth"


class InvalidCapture(InvalidRequest):
    """A capture folder or archive does not follow the pattern."""

    code = "invalid-capture"


class NotFound(WorldloomError):
    """A named thing does not exist, or does not exist for this owner."""

    code = "not-found"
    exit_code = 2


class Conflict(WorldloomError):
    """A request id was used before for something else."""

    code = "conflict"
    exit_code = 2


class GateNotMet(WorldloomError):
    """The work was done but its result is below a stated bound."""

    code = "gate-not-met"
    exit_code = 3


class WrongOffset(WorldloomError):
    """An upload continued at another offset than the server holds."""

    code = "wrong-offset"
    exit_code = 4

    def __init__(self, message: str, *, offset: int = 0, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.offset = offset


class ServerUnreachable(WorldloomError):
    """No server answers at the address, or it went away."""

    code = "server-unreachable"
    exit_code = 4


class ServerBusy(WorldloomError):
    """The server's queue or quota is full for now."""

    code = "server-busy"
    exit_code = 4


class ServerRefused(WorldloomError):
    """The server will not start or will not serve this caller."""

    code = "server-refused"
    exit_code = 4


class NotAuthenticated(WorldloomError):
    """The server does not know the caller: no token, or a wrong one."""

    code = "not-authenticated"
    exit_code = 4


class CorruptData(WorldloomError):
    """Bytes do not match their checksum or their format."""

    code = "corrupt-data"
    exit_code = 5


class EngineFailed(WorldloomError):
    """The generator could not make the world."""

    code = "engine-failed"
    exit_code = 5


class StorageFull(WorldloomError):
    """No space is left for what has to be written."""

    code = "storage-full"
    exit_code = 6


class StorageUnwritable(WorldloomError):
    """A folder cannot be written."""

    code = "storage-unwritable"
    exit_code = 6


class JobCancelled(WorldloomError):
    """The job was cancelled by its owner."""

    code = "cancelled"
    exit_code = 130


class Interrupted(WorldloomError):
    """The user stopped the command; what was made so far is kept."""

    code = "interrupted"
    exit_code = 130


def _descendants(cls: type[WorldloomError]) -> list[type[WorldloomError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found += _descendants(sub)
    return found


def error_class(code: str) -> type[WorldloomError]:
    """The class whose wire identifier is `code`; the base class when it is unknown."""
    return {cls.code: cls for cls in _descendants(WorldloomError)}.get(code, WorldloomError)
