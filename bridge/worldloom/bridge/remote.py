"""Worlds from Python: `connect`, then `server.generate(...)`, then `job.fetch(folder)`.

What a notebook or a script needs, on top of `client`, which does the work. Nothing here waits
unless it says so, and everything that is interrupted goes on when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType

from worldloom.bridge.channel import Access
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import Happening, JobInfo, ServerInfo, StateChange
from worldloom.bridge.worldcache import follow, job_error
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.inputs import check_photo, input_ref
from worldloom.scene.manifest import Manifest
from worldloom.scene.path import CameraPath
from worldloom.scene.path_files import load_path
from worldloom.scene.request import OutputOptions, Quality, ScaleHint, WorldRequest

DONE = "done"


def connect(
    address: str | None = None,
    *,
    store: str | Path | None = None,
    token_file: str | Path | None = None,
    tls_ca: str | Path | None = None,
    away_s: float = 600.0,
) -> Server:
    """Connect to a worldloom server.

    Args:
        address: HOST:PORT, as `worldloom serve` prints it.
        store: Instead of an address: the store folder of a server on this host.
        token_file: File with your token; None reads WORLDLOOM_TOKEN_FILE.
        tls_ca: Certificates that sign the server's; None reads WORLDLOOM_TLS_CA.
        away_s: How long to wait for a server that is away, such as for a restart [s].

    Returns:
        The server; a context manager that closes the connection at its end.

    Raises:
        InvalidRequest: No server is named, or a file cannot be used.
        ServerUnreachable: Nobody answers.
        ServerRefused: The server speaks another protocol.
    """
    found = Access.from_environment()
    access = Access(
        token_file=found.token_file if token_file is None else Path(token_file),
        tls_ca=found.tls_ca if tls_ca is None else Path(tls_ca),
        tls_cert=found.tls_cert,
        tls_key=found.tls_key,
    )
    if address is None and store is None:
        raise InvalidRequest(
            "no server is named; give the HOST:PORT that 'worldloom serve' printed, or store=DIR"
        )
    address = address or address_on(store)
    return Server(WorldsClient(address, access=access, away_s=away_s))


class Server:
    """A server that makes worlds; `connect` gives one."""

    def __init__(self, client: WorldsClient) -> None:
        """Use a connection, and ask the server what it is."""
        self._client = client
        self.info: ServerInfo = client.server_info()
        """Version, engines and limits of the server."""

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        engines = ", ".join(self.info.engines)
        return f"Server({self._client.address}, version {self.info.version}, engines {engines})"

    def close(self) -> None:
        """Close the connection; jobs go on."""
        self._client.close()

    def generate(
        self,
        photo: str | Path,
        *,
        path: str | CameraPath = "pull-back",
        engine: str | None = None,
        prompt: str = "",
        depth: str | Path | None = None,
        camera_height_m: float | None = None,
        frames: int | None = None,
        quality: Quality = "standard",
        seed: int = 1,
        formats: Collection[str] = (),
        priority: int = 0,
    ) -> Job:
        """Ask for a world; comes back as soon as the job is queued.

        The same request of the same caller is the same job: asking twice costs nothing.

        Args:
            photo: PNG, JPEG or WebP file.
            path: Preset such as `dolly` or `orbit:angle=90`, a path file, or a CameraPath.
            engine: Preset of the server; None takes its default.
            prompt: What the places that the photo does not show should look like.
            depth: Metric depth of the photo: npy, npz, 16-bit PNG in mm, or EXR.
            camera_height_m: Height of the camera above the floor [m], if you know it.
            frames: Frames to make; rounded up to 1 + 80 n.
            quality: `draft`, `standard` or `high`.
            seed: Seed of everything random.
            formats: Exchange files besides the USD layers: `ply`, `glb`, `spz`, `vdb`.
            priority: -10 to 10; jobs of a higher one start first.

        Raises:
            InvalidRequest: The photo, the path or an option is not acceptable.
            ServerBusy: Too many of your jobs wait.
            ServerUnreachable: The server went away.
        """
        files = {"photo": check_photo(Path(photo), self.info.limits)}
        if depth is not None:
            files["depth"] = Path(depth)
        refs = {role: input_ref(role, file) for role, file in files.items()}
        request = WorldRequest(
            engine=engine or self.info.default_engine,
            path=path if isinstance(path, CameraPath) else load_path(path, frames=frames),
            photo=refs["photo"],
            depth=refs.get("depth"),
            prompts={0: prompt} if prompt else {},
            seed=seed,
            quality=quality,
            scale=None if camera_height_m is None else ScaleHint(camera_height_m=camera_height_m),
            output=OutputOptions(formats=tuple(formats)),
        )
        request.check(self.info.limits, self.info.engines)
        return Job(self._client, self._client.submit(request, files, priority=priority))

    def jobs(self, *, states: Collection[str] = (), limit: int | None = 20) -> list[Job]:
        """Your jobs, newest first.

        Args:
            states: Only these of `queued`, `running`, `done`, `failed`, `cancelled`.
            limit: No more than this many; None for all.
        """
        found = self._client.jobs(states=states, limit=limit)
        return [Job(self._client, info) for info in found]

    def job(self, name: str) -> Job:
        """One of your jobs by its name.

        Raises:
            NotFound: There is none of that name.
        """
        return Job(self._client, self._client.job(name))


class Job:
    """One job of a server."""

    def __init__(self, client: WorldsClient, info: JobInfo) -> None:
        """Use a connection; `info` is what the server said last."""
        self._client = client
        self.info = info
        """Name, kind, state, engine and error, as the server said last; see `refresh`."""

    def __repr__(self) -> str:
        why = f": {self.info.error_text}" if self.info.error_text else ""
        return f"Job({self.info.name}, {self.info.engine}, {self.info.state}{why})"

    @property
    def name(self) -> str:
        """Name of the job; `server.job(name)` finds it again."""
        return self.info.name

    @property
    def state(self) -> str:
        """State as the server said last: queued, running, done, failed or cancelled."""
        return self.info.state

    def refresh(self) -> Job:
        """Ask the server how the job is."""
        self.info = self._client.job(self.name)
        return self

    def watch(self, *, after_seq: int = 0) -> Iterator[Happening]:
        """What happens, from the beginning or from an event on, until the job ends.

        Yields Progress, Log, Preview (a small JPEG), ArtifactRef (a file is finished) and
        StateChange. It goes on by itself when the connection breaks or the server starts again.

        Raises:
            ServerUnreachable: The server stays away for longer than `away_s`.
        """
        return self._client.watch(self.name, after_seq=after_seq)

    def wait(self, *, on_event: Callable[[Happening], None] | None = None) -> Job:
        """Wait until the job is done.

        Raises:
            WorldloomError: The error that the job ended with, as its own class.
        """
        for event in self.watch():
            if on_event is not None:
                on_event(event)
            if isinstance(event, StateChange):
                end = event
        self.refresh()
        if end.state != DONE:
            raise job_error(self.name, end)
        return self

    def fetch(
        self,
        folder: str | Path,
        *,
        on_event: Callable[[Happening], None] | None = None,
        so_far: bool = False,
    ) -> Manifest:
        """Bring the world into a folder while it grows, checked; waits until the job has ended.

        What is there already is not fetched again, so a fetch that was interrupted goes on.

        Args:
            folder: The world folder; `world.usda` in it is what Isaac Sim opens.
            on_event: Told of everything that `watch` yields.
            so_far: Bring what there is now, and do not wait.

        Returns:
            The manifest: frames, files, scale, licences.

        Raises:
            WorldloomError: The error that the job ended with; what came is kept.
            StorageFull: No space is left; what came is kept.
        """
        manifest = follow(self._client, self.info, Path(folder), on_event=on_event, so_far=so_far)
        self.refresh()
        return manifest

    def cancel(self) -> Job:
        """Ask the job to stop at its next checkpoint; what it made is kept."""
        self.info = self._client.cancel(self.name)
        return self

    def delete(self) -> None:
        """Forget an ended job and the files on the server that only it needs.

        Raises:
            Conflict: It has not ended.
        """
        self._client.delete(self.name)


def address_on(store: str | Path) -> str:
    """Address of the server that runs on a store of this host.

    Raises:
        InvalidRequest: None runs there.
    """
    file = Path(store) / "server.json"
    try:
        return json.loads(file.read_text())["address"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"no server runs on {store}; start one with 'worldloom serve --store {store}', or name "
            "another by its address (--server HOST:PORT)"
        ) from error
