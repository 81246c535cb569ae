"""A folder of photos x camera paths x seeds -> worlds: resumable, parallel, with a table.

    python examples/pipeline.py PHOTOS --paths orbit dolly:distance=2 --seeds 1 2 --out worlds
    python examples/pipeline.py PHOTOS --server HOST:PORT --in-flight 8 --out worlds

Run it again after anything: worlds that are whole are skipped, those that were begun go on, those
that failed are tried anew. A failure is written down and stops nothing else. Without `--server` a
server is started on this machine. Exit codes: 0 all worlds are there, 3 some are not, 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from worldloom.bridge import Server, WorldloomError, connect
from worldloom.scene.manifest import Manifest
from worldloom.scene.worldfolder import check_files, open_world, write_whole

PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
LATER_S = 5.0
"""Pause before a server whose queue is full is asked again [s]."""


@dataclass(frozen=True)
class Item:
    """One world of the table."""

    photo: Path
    path: str
    seed: int
    folder: Path


@dataclass(frozen=True)
class Result:
    """What became of an item."""

    photo: str
    path: str
    seed: int
    folder: str
    status: str
    """`made`, `whole` (was there already) or `failed`."""
    seconds: float = 0.0
    job: str = ""
    world_id: str = ""
    frames: int = 0
    splats: int = 0
    triangles: int = 0
    scale: str = ""
    error_code: str = ""
    error: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Make all worlds of the table."""
    args = parse(arguments)
    items = plan(args)
    print(f"{len(items)} worlds to make: {args.photos} -> {args.out}", flush=True)
    stop = threading.Event()
    results: dict[Item, Result] = {}
    try:
        with server_of(args) as server:
            work(server, items, args, results, stop)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    write_summary(args.out, [results[item] for item in items if item in results])
    left = [item for item in items if item not in results or results[item].status == "failed"]
    print(f"{len(items) - len(left)} of {len(items)} worlds are there; {args.out / 'summary.md'}")
    return 130 if stop.is_set() else 3 if left else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("photos", type=Path, help="folder of PNG, JPEG or WebP photos")
    add("--out", type=Path, required=True, help="folder of the worlds and of the table")
    add("--paths", nargs="+", default=["pull-back"], metavar="PATH", help="presets or path files")
    add("--seeds", nargs="+", type=int, default=[1], metavar="N")
    add("--frames", type=int, metavar="N", help="frames of each world; rounded up to 1 + 80 n")
    add("--quality", default="standard", help="draft, standard or high")
    add("--engine", help="engine preset; default: that of the server")
    add("--server", metavar="HOST:PORT", help="a running server; else one is started here")
    add("--token-file", type=Path, metavar="F")
    add("--tls-ca", type=Path, metavar="F")
    add("--in-flight", type=int, default=4, metavar="N", help="jobs asked for at the same time")
    return parser.parse_args(arguments)


def plan(args: argparse.Namespace) -> list[Item]:
    """Every photo along every path with every seed."""
    photos = sorted(p for p in args.photos.glob("*") if p.suffix.lower() in PHOTOS)
    if not photos:
        raise SystemExit(f"{args.photos} holds no photo ({', '.join(PHOTOS)})")
    return [
        Item(photo, path, seed, args.out / photo.stem / f"{slug(path)}-s{seed}")
        for photo in photos
        for path in args.paths
        for seed in args.seeds
    ]


def slug(path: str) -> str:
    """A path as a folder name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", path).strip("_.")[:60]


@contextmanager
def server_of(args: argparse.Namespace) -> Iterator[Server]:
    """The server that was named, or one of our own for as long as it is needed."""
    if args.server:
        with connect(args.server, token_file=args.token_file, tls_ca=args.tls_ca) as server:
            yield server
        return
    from worldloom.cli.localserver import local_server

    with (
        local_server(args.out / ".store", engine=args.engine or "preview") as local,
        connect(local.address) as server,
    ):
        yield server


def work(
    server: Server,
    items: list[Item],
    args: argparse.Namespace,
    results: dict[Item, Result],
    stop: threading.Event,
) -> None:
    """Make the worlds, some at the same time; the summary is written after each."""
    with ThreadPoolExecutor(args.in_flight) as pool:
        waiting = {pool.submit(make, server, item, args, stop): item for item in items}
        try:
            for future in as_completed(waiting):
                result = future.result()
                results[waiting[future]] = result
                done = f"{len(results)}/{len(items)}"
                print(f"  {done:>7}  {result.status:<6} {result.folder} {result.error}", flush=True)
                write_summary(args.out, [results[item] for item in items if item in results])
        except KeyboardInterrupt:
            # Jobs go on at the server; the next run finds them again by their request.
            stop.set()
            server.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make(server: Server, item: Item, args: argparse.Namespace, stop: threading.Event) -> Result:
    """Make one world unless it is whole; whatever goes wrong is the result."""
    result = Result(
        str(item.photo), item.path, item.seed, str(item.folder), "failed", error="stopped"
    )
    begin = time.monotonic()
    try:
        world = whole_world(item.folder)
        if world is not None:
            return replace(result, status="whole", error="", **facts(world))
        while not stop.is_set():
            try:
                job = server.generate(
                    item.photo, path=item.path, seed=item.seed, frames=args.frames,
                    quality=args.quality, engine=args.engine,
                )  # fmt: skip
            except WorldloomError as error:
                if error.retry_after_ms is None:
                    raise
                stop.wait(max(LATER_S, error.retry_after_ms / 1000))
                continue
            result = replace(result, job=job.name)
            made = facts(job.fetch(item.folder))
            took = round(time.monotonic() - begin, 2)
            return replace(result, status="made", error="", seconds=took, **made)
        return result
    except (WorldloomError, OSError) as error:
        code = getattr(error, "code", type(error).__name__)
        took = round(time.monotonic() - begin, 2)
        return replace(result, seconds=took, error_code=str(code), error=str(error))


def whole_world(folder: Path) -> Manifest | None:
    """The world in a folder if it is complete and every file matches its hash."""
    try:
        world = open_world(folder)
    except WorldloomError:
        return None
    return world if world.complete and not check_files(folder, world) else None


def facts(world: Manifest) -> dict[str, int | str]:
    """What the table tells of a world."""
    return {
        "world_id": world.world_id,
        "frames": world.frames,
        "splats": sum(entry.count for entry in world.live("splats")),
        "triangles": sum(entry.count for entry in world.live("collision")),
        "scale": str(world.scale.get("status", "unknown")),
    }


def write_summary(out: Path, results: list[Result]) -> None:
    """`summary.json` for programs and `summary.md` for people, each whole at any moment."""
    out.mkdir(parents=True, exist_ok=True)
    data = json.dumps([asdict(result) for result in results], indent=2) + "\n"
    write_whole(out / "summary.json", data.encode())
    header = ("photo", "path", "seed", "status", "s", "frames", "splats", "triangles", "scale",
              "error")  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for r in results:
        counted = (r.frames, f"{r.splats:,}", f"{r.triangles:,}", r.scale)
        begin = (Path(r.photo).name, r.path, r.seed, r.status, r.seconds)
        cells = (*begin, *counted, r.error.replace("|", "/"))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    counts = {s: sum(r.status == s for r in results) for s in ("made", "whole", "failed")}
    lines += ["", ", ".join(f"{count} {status}" for status, count in counts.items())]
    write_whole(out / "summary.md", ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
