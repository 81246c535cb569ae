"""The client of service Worlds: submit, watch, fetch; it resumes over broken connections.

Synchronous, for the command line, for tests, and for the worker thread of the extension.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import grpc

from worldloom.bridge.blobcalls import BlobCalls
from worldloom.bridge.channel import Access, open_channel
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
from worldloom.bridge.streams import AWAY_S, IDLE_S, Tries, is_cut, messages_of
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    CorruptData,
    NotFound,
    ServerRefused,
    ServerUnreachable,
)
from worldloom.scene.events import Progress
from worldloom.scene.request import InputRef, WorldRequest

CALL_S = 10.0  # Deadline of a control call [s] (spec bridge 8.2).
MOST_PAGES = 10_000
MOST_STAGES = 256


class WorldsClient:
    """A connection to one server; use it as a context manager."""

    def __init__(
        self,
        address: str,
        *,
        access: Access | None = None,
        idle_s: float = IDLE_S,
        away_s: float = AWAY_S,
        on_away: Callable[[Exception, int], None] | None = None,
    ) -> None:
        """Connect; the first call tells whether somebody answers.

        Args:
            address: HOST:PORT.
            access: Token and certificates; None reads the environment.
            idle_s: Silence after which a stream counts as broken [s].
            away_s: How long a server may be away before it counts as gone [s].
            on_away: Told of each failure of a stream before the next try, and how many in a row
                there were; what it raises ends the waiting.

        Raises:
            InvalidRequest: The address is none, or a file of `access` cannot be used.
        """
        self.address = address
        self._idle_s, self._away_s, self._on_away = idle_s, away_s, on_away
        self._channel = open_channel(address, access)
        self._stub = rpc.WorldsStub(self._channel)
        self._blobs = BlobCalls(self._stub, self._call, address, idle_s=idle_s, tries=self._tries)

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
        self._blobs.upload(ref, file)

    def job(self, name: str) -> JobInfo:
        """One job."""
        return job_info(self._call(self._stub.GetJob, pb.JobRef(name=name)))

    def jobs(self, *, states: Collection[str] = (), limit: int | None = None) -> list[JobInfo]:
        """Jobs of this caller, newest first.

        Args:
            states: Only jobs in these states; empty for all.
            limit: No more than this many; None for all.

        Raises:
            CorruptData: The server's pages have no end.
        """
        found: list[JobInfo] = []
        token, seen = "", set()
        while limit is None or len(found) < limit:
            page = self._call(self._stub.ListJobs, pb.ListJobsRequest(page_token=token))
            jobs = [job_info(job) for job in page.jobs]
            found += [job for job in jobs if not states or job.state in states]
            seen.add(token)
            token = page.next_page_token
            if not token:
                break
            if token in seen or len(seen) > MOST_PAGES:
                raise CorruptData(
                    f"the server at {self.address} lists its jobs without end; after "
                    f"{len(seen)} pages it is not to be trusted"
                )
        return found[:limit]

    def cancel(self, name: str) -> JobInfo:
        """Ask a job to stop; what it made is kept."""
        return job_info(self._call(self._stub.CancelJob, pb.JobRef(name=name)))

    def delete(self, name: str) -> None:
        """Forget an ended job."""
        self._call(self._stub.DeleteJob, pb.JobRef(name=name))

    def watch(self, name: str, *, after_seq: int = 0) -> Iterator[Happening]:
        """What happens to a job, from an event on until it ends; reconnects by itself.

        Progress never falls within one stage, even where a lost worker begins a chunk again, and
        no event comes twice.

        Raises:
            NotFound: There is no such job.
            ServerUnreachable: The server stays away; watch again later from the last seq.
        """
        tries, furthest = self._tries(), {}
        while True:
            call = self._stub.WatchJob(pb.WatchJobRequest(name=name, after_seq=after_seq))
            try:
                for message in messages_of(call, self._idle_s, self.address):
                    tries.news()
                    if 0 < message.seq <= after_seq:
                        continue
                    after_seq = max(after_seq, message.seq)
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
                error = ServerUnreachable(
                    f"the server at {self.address} ends the watch of job {name}, which is "
                    f"{job.state}; watch it again later"
                )
            except ServerUnreachable as failed:
                error = failed
            if not tries.again(error):
                raise error
            del error  # It holds the broken call; see idle_guard.

    def fetch(self, ref: ArtifactRef, file: Path, *, info: ServerInfo | None = None) -> Path:
        """Bring a blob to `file`, checked; continues a part of it that is there already.

        Args:
            ref: Which blob.
            file: Where to; replaced only by the whole content.
            info: The server, to link instead of copying where it is on this host.

        Raises:
            CorruptData: It arrives damaged again and again, or the server's copy is damaged.
            ServerUnreachable: The server stays away; the part so far is kept.
            StorageFull: No space is left; the part so far is kept.
        """
        return self._blobs.fetch(ref, file, info=info)

    def fetch_packed(self, ref: ArtifactRef, file: Path) -> Path:
        """Bring a splat blob to `file` as compressed PLY, a third of the bytes and lossy.

        Raises:
            InvalidRequest: The blob is no splat layer, or the server cannot pack.
            CorruptData: It arrives damaged again and again.
            ServerUnreachable: The server stays away; the part so far is kept.
            StorageFull: No space is left; the part so far is kept.
        """
        return self._blobs.fetch_packed(ref, file)

    def _tries(self) -> Tries:
        return Tries(self._away_s, self._on_away)

    def _call(self, method: object, message: object) -> object:
        """One control call; said again where the connection broke within its answer.

        gRPC repeats a call only until its answer has begun. Every call of ours may come twice.
        """
        try:
            try:
                return method(message, timeout=CALL_S)
            except grpc.RpcError as broken:
                if not is_cut(broken):
                    raise
            return method(message, timeout=CALL_S)
        except grpc.RpcError as broken:
            raise error_of(broken, self.address) from broken


def _falls(event: Happening, furthest: dict[str, int]) -> bool:
    """Whether an event is progress behind what its stage reached before."""
    if not isinstance(event, Progress):
        return False
    if len(furthest) > MOST_STAGES:
        furthest.clear()
    before = furthest.get(event.stage, -1)
    furthest[event.stage] = max(before, event.done)
    return event.done < before
