"""`worldloom doctor`: what this machine can do, what is missing, and what to type."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from worldloom.cli import console, doctor_memory

PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "bridge": (("grpc", "google.protobuf", "rich"), "pip install 'worldloom[bridge]'"),
    "generator": (
        ("torch", "numba", "scipy", "trimesh", "fast_simplification", "PIL", "pxr", "omegaconf"),
        "pip install 'worldloom[generator]'",
    ),
    "tasks": (("matplotlib", "jinja2", "gymnasium", "embreex"), "pip install 'worldloom[tasks]'"),
    "physics": (("ovphysx", "ovstage"), "pip install 'worldloom[physics]'"),
    "sample photo": (("skimage",), "pip install 'worldloom[demo]'"),
    "exr": (("OpenEXR",), "pip install 'worldloom[exr]'"),
}
DISTRIBUTIONS = {
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
    "PIL": "pillow",
    "pxr": "usd-core",
    "skimage": "scikit-image",
    "OpenEXR": "openexr",
    "fast_simplification": "fast-simplification",
}
DEMO_FREE_GB = 2.0  # What the demo's folder and store take, with room to spare.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom doctor`."""
    parser.add_argument("--server", metavar="HOST:PORT", help="also ask this server")
    doctor_memory.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of every part; exit 0 when the demo can run, 2 otherwise."""
    if args.engine:
        return doctor_memory.show(args)
    rows, ready = _part_rows()
    console.say(f"worldloom {metadata.version('worldloom')} on Python {platform.python_version()}")
    console.say(f"{platform.platform()}, {os.cpu_count()} CPUs, {_memory()}, {_gpu()}")
    console.say()
    console.table(["part", "state", "found", "remedy"], rows)
    console.say()
    _show_engines()
    _show_weights()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    verdict = "enough" if free >= DEMO_FREE_GB else f"the demo needs {DEMO_FREE_GB:g} GB"
    console.say(f"  disk: {free:.1f} GB free here ({verdict})")
    if args.server:
        _show_server(args.server)
    console.emit("doctor", ready=ready, free_gb=round(free, 1))
    return 0 if ready else 2


def _part_rows() -> tuple[list[list[str]], bool]:
    rows, ready = [], True
    for part, (modules, remedy) in PARTS.items():
        missing = [name for name in modules if not _importable(name)]
        optional = part in ("physics", "exr")
        ready = ready and (optional or not missing)
        state = "ok" if not missing else ("absent (optional)" if optional else "incomplete")
        found = ", ".join(_version(name) for name in modules if name not in missing)
        rows.append([part, state, found or "-", "" if not missing else remedy])
    return rows, ready


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _version(name: str) -> str:
    distribution = DISTRIBUTIONS.get(name, name)
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return distribution


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 1e9:.0f} GB of memory"


def _gpu() -> str:
    if not _importable("torch"):
        return "GPU unknown without torch"
    import torch

    if not torch.cuda.is_available():
        return "no CUDA GPU (the engines preview and truth need none)"
    device = torch.cuda.get_device_properties(0)
    return f"{device.name} with {device.total_memory / 1e9:.0f} GB"


def _show_engines() -> None:
    if not (_importable("omegaconf") and _importable("worldloom.generator.engines")):
        return
    from worldloom.generator.engines import describe

    rows = [
        [e["name"], e["needs"], f"{e['seconds_per_frame']:g}", e["summary"]] for e in describe()
    ]
    console.table(["engine", "needs", "s/frame", "what"], rows)
    console.say()


def _show_weights() -> None:
    if not _importable("worldloom.generator.weights"):
        return
    from worldloom.generator.weights import catalogue, find_weights

    rows = [
        [w.name, "present" if find_weights(w.name) else "absent", w.size, w.licence]
        for w in catalogue()
    ]  # fmt: skip
    console.table(["weights", "state", "size", "licence"], rows)
    console.say()


def _show_server(address: str) -> None:
    from worldloom.bridge.client import WorldsClient

    with WorldsClient(address) as client:
        info = client.server_info()
    console.say(f"  server {address}: version {info.version}, engines {', '.join(info.engines)}")
    console.say(
        f"    {info.queued} jobs wait, {info.running} run; GPUs: {', '.join(info.gpus) or 'none'}; "
        f"can {', '.join(info.features) or 'do nothing beyond the first version'}"
    )
    for preset, weights in info.licences.items():
        terms = ", ".join(f"{name} ({licence})" for name, licence in weights.items())
        console.say(f"    weights of {preset}: {terms}")
    console.emit(
        "server", address=address, version=info.version, engines=info.engines, gpus=info.gpus,
        queued=info.queued, running=info.running, licences=info.licences, features=info.features,
    )  # fmt: skip
