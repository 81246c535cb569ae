"""The options of `worldloom serve` -> a hardened systemd unit."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

STATE_FOLDER = "worldloom"
UNIT = """\
# Save as /etc/systemd/system/worldloom.service, then: systemctl enable --now worldloom
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
DynamicUser=yes
StateDirectory={state}
StateDirectoryMode=0700
CacheDirectory={state}
Environment=HOME=%S/{state} XDG_CACHE_HOME=%C/{state}
{credentials}LimitNOFILE=65536
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
SECRETS = ("tls_cert", "tls_key", "tls_client_ca", "tokens")
"""Files that root may keep to itself: systemd hands the server a copy of its own."""


def unit(args: argparse.Namespace) -> str:
    """A unit that runs the server with these options."""
    command = [sys.executable, "-m", "worldloom.cli.main", "serve",
               "--bind", args.bind, "--engine", args.engine,
               "--store", f"%S/{STATE_FOLDER}/store"]  # fmt: skip
    for name, value in (("workers", args.workers), ("ray", args.ray), ("metrics", args.metrics)):
        if value or (name == "metrics" and value is not None):
            command += [f"--{name}", str(value)]
    if args.weights is not None:
        command += ["--weights", str(args.weights.resolve())]
    credentials = ""
    for name in SECRETS:
        file: Path | None = getattr(args, name)
        if file is not None:
            command += [f"--{name.replace('_', '-')}", f"%d/{name}"]
            credentials += f"LoadCredential={name}:{_quoted(str(file.resolve()))}\n"
    command += ["--log-json"] + (["--debug"] if args.debug else [])
    return UNIT.format(
        command=shlex.join(_quoted(word) for word in command), state=STATE_FOLDER,
        credentials=credentials, home="read-only" if _under_home(args) else "yes",
    )  # fmt: skip


def _under_home(args: argparse.Namespace) -> bool:
    """Whether the program or its weights lie where ProtectHome would hide them."""
    places = [sys.executable, sys.prefix, os.path.dirname(__file__)]
    places += [str(args.weights.resolve())] if args.weights is not None else []
    return any(Path(place).is_relative_to(root) for place in places for root in ("/home", "/root"))


def _quoted(word: str) -> str:
    """A word in which systemd expands only what we wrote: %S and %d."""
    known = ("%S/", "%d/")
    return word if word.startswith(known) else word.replace("%", "%%").replace("$", "$$")
