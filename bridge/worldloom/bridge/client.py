"""The client of service Worlds: submit, watch, fetch; it resumes over broken connections.

Synchronous, for the command line, for tests, and for the worker thread of the extension.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import grpc

from worldloom.bridge.messages import (
    PROTOCOL,
    TERMINAL,
    ArtifactRef,
    Happening,
    JobInfo,
    ServerInfo,
    StateChange,
    happening,
    job_info,
    server_info,
)
from worldloom.bridge.status import error_of
from worldloom.bridge.transfer import (
    accept,
    begun,
    incoming,
    is_whole,
    link_from_store,
    outgoing,
    part_file,
)
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    CorruptData,
    NotFound,
    ServerRefused,
    ServerUnreachable,
    WrongOffset,
)
from worldloom.scene.events import Progress
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import InputRef, WorldRequest
from worldloom.scene.worldfolder import file_sha256, storage_errors

CALL_S = 20.0  # Deadline of a control call [s]; describing the engines takes the longest.
RETRIES = 6
"""Reconnections without any news before a server counts as gone; about 20 s in all."""
UNARY = (
    "GetServer", "StatBlob", "CreateJob", "GetJob", "ListJobs", "CancelJob", "DeleteJob",
)  # fmt: skip
"""Calls that gRPC may repeat by itself; the streams are resumed here, where they ended."""
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


class WorldsClient:
    """A connection to one server; use it as a context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        limits = Limits()
        options = [
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
        self._channel = grpc.insecure_channel(address, options)
        self._stub = rpc.WorldsStub(self._channel)
        self._part = limits.part_bytes

    def __enter__(self) -> WorldsClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def server_info(self) -> ServerInfo:
        """What the server is.

        Raises:
            ServerUnreachable: No server answers.
            ServerRefused: It speaks another protocol.
        """
        info = server_info(self._call(self._stub.GetServer, pb.GetServerRequest()))
        if not info.protocol[0] <= PROTOCOL <= info.protocol[1]:
            raise ServerRefused(
                f"the server at {self.address} (version {info.version}) speaks protocol "
                f"{info.protocol[0]} to {info.protocol[1]}, this client {PROTOCOL}; update one"
            )
        return info

    def submit(
        self,
        request: WorldRequest,
        files: Mapping[str, Path],
        *,
        kind: str = "generate",
        request_id: str | None = None,
        parent: str | None = None,
        priority: int = 0,
    ) -> JobInfo:
        """Upload what is missing and queue a job.

        Args:
            request: What to make.
            files: The inputs by role; those that the server has already are not sent again.
            kind: `generate`, `seed`, `extend` or `revert`.
            request_id: Idempotency key; None makes a fresh one, so a call that is repeated by
                the retry policy still makes one job.
            parent: Name of the job whose world is extended.
            priority: -10 to 10; jobs of a higher one start first.

        Raises:
            InvalidRequest: The server refuses the request.
            ServerUnreachable: No server answers.
        """
        refs = request.inputs()
        message = pb.CreateJobRequest(
            request_id=request_id or uuid.uuid4().hex,
            kind=kind,
            parent_world=parent or "",
            request_json=request.canonical().decode(),
            inputs=[pb.BlobRef(sha256=ref.sha256, bytes=ref.bytes) for ref in refs],
            priority=priority,
        )
        self._upload_all(refs, files)
        try:
            return job_info(self._call(self._stub.CreateJob, message))
        except NotFound as error:
            if error.field not in files:
                raise
            # A job that had the same input was deleted between the upload and this call.
            self._upload_all(refs, files)
            return job_info(self._call(self._stub.CreateJob, message))

    def _upload_all(self, refs: Iterable[InputRef], files: Mapping[str, Path]) -> None:
        for ref in refs:
            if ref.role in files:
                self.upload(ref, files[ref.role])

    def upload(self, ref: InputRef, file: Path) -> None:
        """Send a file unless the server has it; continues where an earlier try ended.

        Raises:
            CorruptData: It arrives damaged again and again, or it changed meanwhile.
            ServerUnreachable: The connection broke for good.
            InvalidRequest: The server does not take it.
        """
        failures, most = 0, -1
        while True:
            try:
                message = pb.BlobRef(sha256=ref.sha256, bytes=ref.bytes)
                stat = self._call(self._stub.StatBlob, message)
                if stat.committed:
                    return
                failures, most = (0, stat.bytes) if stat.bytes > most else (failures, most)
                parts = outgoing(ref, file, stat.bytes, part_bytes=self._part)
                self._call(self._stub.WriteBlob, parts, timeout=None)
            except (WrongOffset, CorruptData, ServerUnreachable) as error:
                failures += 1
                if failures >= RETRIES:
                    raise
                if isinstance(error, CorruptData) and file_sha256(file) != ref.sha256:
                    raise CorruptData(f"{file} changed while it was sent; try again") from error
                time.sleep(_pause(failures))

    def job(self, name: str) -> JobInfo:
        """One job."""
        return job_info(self._call(self._stub.GetJob, pb.JobRef(name=name)))

    def jobs(self) -> list[JobInfo]:
        """All jobs of this caller, newest first."""
        found, token = [], ""
        while True:
            page = self._call(self._stub.ListJobs, pb.ListJobsRequest(page_token=token))
            found += [job_info(job) for job in page.jobs]
            token = page.next_page_token
            if not token:
                return found

    def cancel(self, name: str) -> JobInfo:
        """Ask a job to stop; what it made is kept."""
        return job_info(self._call(self._stub.CancelJob, pb.JobRef(name=name)))

    def delete(self, name: str) -> None:
        """Forget an ended job."""
        self._call(self._stub.DeleteJob, pb.JobRef(name=name))

    def watch(self, name: str, *, after_seq: int = 0) -> Iterator[Happening]:
        """What happens to a job, from an event on until it ends; reconnects by itself.

        Progress never falls within one stage, even where a lost worker begins a chunk again.

        Raises:
            NotFound: There is no such job.
            ServerUnreachable: The server stays away; watch again later from the last seq.
        """
        failures, furthest = 0, {}
        while True:
            call = self._stub.WatchJob(pb.WatchJobRequest(name=name, after_seq=after_seq))
            try:
                for message in call:
                    failures, after_seq = 0, max(after_seq, message.seq)
                    event = happening(message)
                    if event is not None and not _falls(event, furthest):
                        yield event
                    if isinstance(event, StateChange) and event.state in TERMINAL:
                        return
                # The stream ended in order, so every event has come: a watch that began after
                # the last state change still has to say how the job ended.
                job = self.job(name)
                if job.state in TERMINAL:
                    yield StateChange(
                        job.state, job.error_code, job.error_text, job.error_field, job.last_seq
                    )
                    return
            except grpc.RpcError as broken:
                error = error_of(broken, self.address)
                failures += 1
                if not isinstance(error, ServerUnreachable) or failures >= RETRIES:
                    raise error from broken
                time.sleep(_pause(failures))
            finally:
                call.cancel()

    def fetch(self, ref: ArtifactRef, file: Path, *, info: ServerInfo | None = None) -> Path:
        """Bring a blob to `file`, checked; continues a part of it that is there already.

        Args:
            ref: Which blob.
            file: Where to; replaced only by the whole content.
            info: The server, to link instead of copying where it is on this host.

        Raises:
            CorruptData: It arrives damaged again and again.
            ServerUnreachable: The server stays away; the part so far is kept.
            StorageFull: No space is left; the part so far is kept.
        """
        if is_whole(ref, file):
            return file
        part = part_file(ref, file)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        if info is not None and link_from_store(info, ref, part):
            with storage_errors(file):
                part.replace(file)
            return file
        failures, most = 0, begun(part)
        while True:
            try:
                self._download(ref, part)
                accept(ref, part, file)
                return file
            except (ServerUnreachable, CorruptData):
                failures, most = (1, begun(part)) if begun(part) > most else (failures + 1, most)
                if failures >= RETRIES:
                    raise
                time.sleep(_pause(failures))

    def _download(self, ref: ArtifactRef, part: Path) -> None:
        if begun(part) >= ref.bytes:
            return
        call = self._stub.ReadBlob(pb.ReadBlobRequest(sha256=ref.sha256, offset=begun(part)))
        try:
            incoming(call, ref, part)
        except grpc.RpcError as broken:
            raise error_of(broken, self.address) from broken
        finally:
            call.cancel()

    def _call(self, method: object, message: object, *, timeout: float | None = CALL_S) -> object:
        try:
            return method(message, timeout=timeout)
        except grpc.RpcError as broken:
            raise error_of(broken, self.address) from broken


def _pause(attempt: int) -> float:
    return min(5.0, 0.2 * 2**attempt)


def _falls(event: Happening, furthest: dict[str, int]) -> bool:
    """Whether an event is progress behind what its stage reached before."""
    if not isinstance(event, Progress):
        return False
    before = furthest.get(event.stage, -1)
    furthest[event.stage] = max(before, event.done)
    return event.done < before
