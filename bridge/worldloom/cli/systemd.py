"""The options of `worldloom serve` -> a hardened systemd unit."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

STATE_FOLDER = "worldloom"
HOMES = ("/home", "/root")
UNIT = """\
# useradd --system worldloom; save this as /etc/systemd/system/worldloom.service; then
# systemctl enable --now worldloom
[Unit]
Description=worldloom generation server
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
# A job stops at its checkpoint within 30 s and continues after the restart.
KillMode=mixed
TimeoutStopSec=60
User=worldloom
StateDirectory={state}
StateDirectoryMode=0700
CacheDirectory={state}
Environment=HOME=%S/{state} XDG_CACHE_HOME=%C/{state}
LimitNOFILE=65536
LimitCORE=0
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# GPUs need their device files, and compilers of kernels need memory that is written and run:
# so neither PrivateDevices nor MemoryDenyWriteExecute is set.

[Install]
WantedBy=multi-user.target
"""
FILES = ("tls_cert", "tls_key", "tls_client_ca", "tokens", "weights")


def unit(args: argparse.Namespace) -> str:
    """A unit that runs the server with these options, and its store in systemd's state folder."""
    command = [sys.executable, "-m", "worldloom.cli.main", "serve", "--bind", args.bind,
               "--engine", args.engine, "--store", f"%S/{STATE_FOLDER}/store"]  # fmt: skip
    for name in ("workers", "ray", "metrics"):
        value = getattr(args, name)
        if value or (name == "metrics" and value is not None):
            command += [f"--{name}", str(value)]
    if args.quota is not None:
        command += ["--quota", f"{args.quota:g}"]
    for limit in args.limit:
        command += ["--limit", limit]
    for name in FILES:
        file: Path | None = getattr(args, name)
        if file is not None:
            command += [f"--{name.replace('_', '-')}", str(file.resolve())]
    command += ["--log-json"] + (["--debug"] if args.debug else [])
    return UNIT.format(
        command=" ".join(_quoted(word) for word in command), state=STATE_FOLDER,
        home="read-only" if _under_home(args) else "yes",
    )  # fmt: skip


def _under_home(args: argparse.Namespace) -> bool:
    """Whether the program or its files lie where ProtectHome would hide them."""
    places = [Path(sys.executable), Path(sys.prefix), Path(__file__)]
    places += [getattr(args, name) for name in FILES if getattr(args, name) is not None]
    return any(place.resolve().is_relative_to(root) for place in places for root in HOMES)


def _quoted(word: str) -> str:
    """A word as systemd reads it back; of its own expansions only %S is ours."""
    if not word.startswith("%S/"):
        word = word.replace("%", "%%").replace("$", "$$")
    plain = re.fullmatch(r"[\w%$@+=:,./\[\]-]+", word)
    return word if plain else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
