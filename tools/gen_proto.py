"""Generate the wire code from bridge.proto with the pinned grpcio-tools; run by `make proto`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = "worldloom/bridge/v1/bridge.proto"


def generate(out: Path) -> None:
    """Write bridge_pb2.py and bridge_pb2_grpc.py below `out`."""
    from grpc_tools import protoc

    include = ROOT / "bridge"
    arguments = ["protoc", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bridge")
