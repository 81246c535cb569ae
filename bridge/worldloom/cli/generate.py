"""`worldloom generate` and `worldloom extend`: a photo, capture or world in, a grown world out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldloom.cli import console
from worldloom.cli.connection import access_of, add_server_options
from worldloom.cli.localserver import local_server
from worldloom.cli.requests import add_request_arguments, build_request
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.events import Log, Progress
from worldloom.scene.manifest import Manifest
from worldloom.scene.path_files import load_path
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import make_folder, open_world

if TYPE_CHECKING:
    from worldloom.bridge.channel import Access

STORE = ".store"
"""Folder of the embedded server inside the output folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom generate`."""
    parser.add_argument(
        "source",
        help="a photo; with --engine capture a folder of posed frames; with --engine truth the "
        "name of a scene",
    )
    _add_path_arguments(parser, "pull-back")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="world folder")
    parser.add_argument("--engine", default="preview", help="engine preset (see doctor)")
    add_server_options(parser, store=False)
    add_request_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make a world and say what to do next."""
    if args.engine == "truth" and args.path == "pull-back":
        args.path = "walkthrough"
    if args.engine == "capture":
        return _run_capture(args)
    request, files = build_request(args.source, args)
    out = make_folder(args.out)
    with server_address(args, out) as address:
        manifest = make(address, request, files, out, access=access_of(args))
    report_world(out, manifest)
    return 0


def _run_capture(args: argparse.Namespace) -> int:
    """Pack the capture, make its world, and forget the packed copy."""
    from worldloom.cli.capture import check_path_option, packed_capture

    check_path_option(args.path)
    out = make_folder(args.out)
    with packed_capture(Path(args.source), out, frames=args.frames) as (archive, path):
        request, files = build_request(str(archive), args, path=path)
        with server_address(args, out) as address:
            manifest = make(address, request, files, out, access=access_of(args))
    report_world(out, manifest, extend=False)
    return 0


def add_extend_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom extend`."""
    parser.add_argument("world", type=Path, help="folder of a finished world")
    _add_path_arguments(parser, "dolly")
    parser.add_argument("--frames", type=int, metavar="N", help="frames to add; 80 n")
    add_server_options(parser, store=False)


def run_extend(args: argparse.Namespace) -> int:
    """Go on from the last camera of a world along a new path."""
    from dataclasses import replace

    manifest = open_world(args.world)
    frames = None if args.frames is None else args.frames + 1
    path = load_path(args.path, frames=frames, reference_quirks=args.reference_quirks)
    request = replace(WorldRequest.from_json(manifest.request), path=path)
    with server_address(args, args.world) as address:
        grown = make(
            address, request, {}, args.world, kind="extend", parent=manifest, access=access_of(args)
        )
    report_world(args.world, grown)
    return 0


@contextmanager
def server_address(args: argparse.Namespace, out: Path) -> Iterator[str]:
    """The address given by `--server`, or an embedded server with its store in `out`."""
    if args.server:
        yield args.server
        return
    with local_server(out / STORE, engine=getattr(args, "engine", "preview")) as server:
        yield server.address


def make(
    address: str,
    request: WorldRequest,
    files: Mapping[str, Path],
    out: Path,
    *,
    kind: str = "generate",
    parent: Manifest | None = None,
    on_event: Any = None,
    access: Access | None = None,
) -> Manifest:
    """Run one job on the server at `address` and bring its world into `out`.

    Raises:
        WorldloomError: Whatever the server or the engine reports; the world keeps what arrived.
    """
    from worldloom.bridge.client import WorldsClient
    from worldloom.bridge.worldcache import follow

    with WorldsClient(address, access=access) as client, console.meter() as meter:
        info = client.server_info()
        request.check(info.limits, tuple(info.engines))
        job = client.submit(
            request, files, kind=kind, parent=None if parent is None else _job_of(out, parent)
        )

        def show(event: Any) -> None:
            if isinstance(event, Progress):
                meter.update(event)
            elif isinstance(event, Log):
                meter.log(event)
            if on_event is not None:
                on_event(event)

        manifest = follow(client, job, out, on_event=show)
        # Only now: an extension that was interrupted starts again from the same parent.
        remember_job(out, job.name)
        return manifest


def report_world(out: Path, manifest: Manifest, *, extend: bool = True) -> None:
    """Say what was made and what to do with it; `extend`: whether a path can lead on from it."""
    counts = {
        kind: sum(entry.count for entry in manifest.live(kind)) for kind in ("splats", "collision")
    }
    scale = manifest.scale
    console.say()
    console.table(
        ["world", "frames", "splats", "triangles", "scale", "depth"],
        [
            [
                str(out),
                manifest.frames,
                f"{counts['splats']:,}",
                f"{counts['collision']:,}",
                f"{scale.get('status', 'unknown')} +-{100 * scale.get('sigma', 0):.0f} %",
                manifest.depth_source,
            ]
        ],
    )
    console.say()
    console.say(f"  open in Isaac Sim   File > Open > {(out / 'world.usda').resolve()}")
    console.say(f"  drive in it         worldloom nav build {out} --robot jetbot_body")
    if extend:
        console.say(f"  go on               worldloom extend {out} --path dolly:distance=1")
    for notice in manifest.notices:
        console.say(f"  note: {notice}")
    console.emit("world", folder=str(out), world_id=manifest.world_id, complete=manifest.complete)


def _add_path_arguments(parser: argparse.ArgumentParser, preset: str) -> None:
    parser.add_argument("--path", default=preset, metavar="PRESET|FILE", help=_PATH_HELP)
    parser.add_argument(
        "--reference-quirks",
        action="store_true",
        help="Lyra's paths exactly as released, with the directions that are wrong there",
    )


def remember_job(out: Path, name: str) -> None:
    """Note in the world folder which job makes it."""
    (out / ".job").write_text(name + "\n")


def _job_of(out: Path, parent: Manifest) -> str:
    file = out / ".job"
    if not file.is_file():
        raise InvalidRequest(
            f"{out} does not say which job made it (.job is missing), so world "
            f"{parent.world_id[:12]} cannot be extended; generate it again"
        )
    return file.read_text().strip()


_PATH_HELP = (
    "camera path: preset, preset:key=value,..., lyra:NAME[:direction=left,strength=0.5,depth=2] "
    "(depth: lower quartile of the photo's depth in metres, default 2), path.json, trajectory.npz"
)
