"""A generator for the bridge's benchmarks: files of a given size, told at a known moment.

The prompt of frame 0 is JSON: `bytes` (size of each file), `files`, `pause_s` (between files).
Just before each file is told its path goes out as a log line with the time of day.
"""

import hashlib
import json
import time

from worldloom.scene.events import Artifact, Log
from worldloom.scene.worldfolder import write_whole


def describe():
    """The presets: one."""
    return [{"name": "bench"}]


def make_world(request, *, inputs, work, resume, emit, cancelled):
    """Write the files that the prompt asks for and tell of them."""
    wanted = json.loads(request.prompts[0])
    made = []
    for number in range(wanted["files"]):
        block = hashlib.sha256(request.canonical() + bytes([number % 256, number // 256])).digest()
        data = block * (wanted["bytes"] // len(block))
        digest = hashlib.sha256(data).hexdigest()
        file = work / "world" / "splats" / f"{digest}.usdc"
        write_whole(file, data)
        made.append((f"splats/{digest}.usdc", file))
    for path, file in made:
        end = time.monotonic() + wanted["pause_s"]
        while time.monotonic() < end and not cancelled():
            time.sleep(0.02)
        emit(Log("info", json.dumps({"path": path, "at": time.time()})))
        emit(Artifact(1, "splats", path, file))
    while wanted.get("stay") and not cancelled():
        time.sleep(0.05)
