"""Splats <-> compressed PLY (PlayCanvas's layout), 16 bytes a splat: a look at a world, lossy.

Splats lie in blocks of 256 neighbours. A block has the box of its positions, of its log scales and
of its colours; a splat has four words: position 11-10-11 bits within the box, rotation as the
largest component's number and three of 10 bits, scale 11-10-11, colour and opacity 4 x 8. Higher
harmonics are a byte each. Viewers such as SuperSplat and PlayCanvas read it. What it loses: in a
block of 1 m positions to 0.5 mm, scales and colours to about one percent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData
from worldloom.scene.splats import SH_C0, Splats

BLOCK = 256
SPLATS_MAX = 50_000_000  # More are refused before any memory is taken for them.
HEADER_BYTES = 8192
LOG_SCALES = (-20.0, 20.0)  # Bounds of the logarithm of a scale, as the viewers clamp it.
SQRT_HALF = 0.7071067811865476
HARMONIC_RANGE = 8.0  # Higher harmonics are told within -4 to 4.
BOXES = [f"{bound}_{name}" for group in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"),
         ("r", "g", "b")) for bound in ("min", "max") for name in group]  # fmt: skip
WORDS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]

Float = NDArray[np.float32]
Word = NDArray[np.uint32]


def save_packed(splats: Splats, file: Path) -> None:
    """Write splats in the order of their neighbourhood; the same splats give the same bytes.

    Raises:
        CorruptData: There is no splat, or one is not finite.
    """
    if splats.n == 0 or not all(np.isfinite(a).all() for a in (splats.means, splats.scales)):
        raise CorruptData(f"{splats.n} splats cannot be packed; at least one, all finite, can")
    splats = splats.select(splats.morton_order())
    logs = np.clip(np.log(np.maximum(splats.scales, 1e-30)), *LOG_SCALES).astype(np.float32)
    colours = (0.5 + SH_C0 * splats.sh[:, 0]).astype(np.float32)
    boxes, shares = zip(*(_boxed(values) for values in (splats.means, logs, colours)), strict=True)
    opacity = _steps(splats.opacities, 8)
    words = np.stack(
        [
            _join(shares[0], (11, 10, 11)),
            _pack_rotations(splats.quats_wxyz),
            _join(shares[1], (11, 10, 11)),
            (_join(shares[2], (8, 8, 8)) << np.uint32(8)) | opacity,
        ],
        axis=1,
    )
    higher = splats.sh[:, 1:].transpose(0, 2, 1).reshape(splats.n, -1)
    bytes_of_higher = np.clip((higher / HARMONIC_RANGE + 0.5) * 256, 0, 255).astype(np.uint8)
    table = np.concatenate([part.reshape(len(part), -1) for part in boxes], axis=1)
    with file.open("wb") as out:
        out.write(_header(splats.n, bytes_of_higher.shape[1]))
        out.write(np.ascontiguousarray(table, "<f4").tobytes())
        out.write(np.ascontiguousarray(words, "<u4").tobytes())
        out.write(bytes_of_higher.tobytes())


def load_packed(file: Path) -> Splats:
    """Read what `save_packed` wrote.

    Raises:
        CorruptData: Not such a file, or shorter than its header says.
    """
    count, harmonics, data = _read(file)
    blocks = -(-count // BLOCK)
    table = np.frombuffer(data, "<f4", blocks * len(BOXES)).reshape(blocks, 3, 2, 3)
    at = table.nbytes
    words = np.frombuffer(data, "<u4", count * 4, at).reshape(count, 4)
    rest = np.frombuffer(data, np.uint8, count * harmonics, at + words.nbytes)
    box = np.repeat(table, BLOCK, axis=0)[:count]
    means = _unboxed(_split(words[:, 0], (11, 10, 11)), box[:, 0])
    scales = np.exp(_unboxed(_split(words[:, 2], (11, 10, 11)), box[:, 1]))
    colours = _unboxed(_split(words[:, 3] >> np.uint32(8), (8, 8, 8)), box[:, 2])
    opacities = ((words[:, 3] & np.uint32(255)) / np.float32(255)).astype(np.float32)
    higher = rest.reshape(count, 3, harmonics // 3).transpose(0, 2, 1)
    higher = higher * np.float32(HARMONIC_RANGE / 255) - np.float32(HARMONIC_RANGE / 2)
    sh = np.concatenate([((colours - 0.5) / SH_C0)[:, None], higher], axis=1)
    arrays = (means, scales, _unpack_rotations(words[:, 1]), opacities, sh)
    return Splats(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def _boxed(values: Float) -> tuple[Float, Float]:
    """The box of each block [b 2 3], and where in it each splat lies, 0..1 [n 3]."""
    starts = np.arange(0, len(values), BLOCK)
    low = np.minimum.reduceat(values, starts)
    high = np.maximum.reduceat(values, starts)
    span = np.maximum(high - low, np.float32(1e-20))
    block = np.arange(len(values)) // BLOCK
    return np.stack([low, high], axis=1), (values - low[block]) / span[block]


def _unboxed(shares: Float, box: Float) -> Float:
    return box[:, 0] + shares * (box[:, 1] - box[:, 0])


def _steps(values: Float, bits: int) -> Word:
    most = (1 << bits) - 1
    return np.clip(np.floor(values * most + 0.5), 0, most).astype(np.uint32)


def _join(shares: Float, bits: tuple[int, int, int]) -> Word:
    word = np.zeros(len(shares), np.uint32)
    for axis, width in enumerate(bits):
        word = (word << np.uint32(width)) | _steps(shares[:, axis], width)
    return word


def _split(word: Word, bits: tuple[int, int, int]) -> Float:
    parts = []
    for width in reversed(bits):
        most = (1 << width) - 1
        parts.append((word & np.uint32(most)) / np.float32(most))
        word = word >> np.uint32(width)
    return np.stack(parts[::-1], axis=1).astype(np.float32)


def _pack_rotations(quats_wxyz: Float) -> Word:
    """Number of the largest component, which is made positive, and the three others."""
    unit = quats_wxyz / np.maximum(np.linalg.norm(quats_wxyz, axis=1, keepdims=True), 1e-12)
    largest = np.abs(unit).argmax(1)
    rows = np.arange(len(unit))
    unit = unit * np.where(unit[rows, largest] < 0, -1, 1)[:, None]
    others = _others(largest)
    shares = unit[rows[:, None], others] * SQRT_HALF + 0.5
    word = largest.astype(np.uint32)
    for axis in range(3):
        word = (word << np.uint32(10)) | _steps(shares[:, axis], 10)
    return word


def _unpack_rotations(word: Word) -> Float:
    largest = (word >> np.uint32(30)).astype(np.int64)
    three = (_split(word & np.uint32((1 << 30) - 1), (10, 10, 10)) - 0.5) / np.float32(SQRT_HALF)
    quats = np.zeros((len(word), 4), np.float32)
    rows = np.arange(len(word))
    quats[rows[:, None], _others(largest)] = three
    quats[rows, largest] = np.sqrt(np.maximum(0.0, 1.0 - (three**2).sum(1)))
    return quats


def _others(largest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the three components that are not the largest, in order [n 3]."""
    table = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    return table[largest]


def _header(count: int, harmonics: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", "comment lossy, packed by worldloom",
             f"element chunk {-(-count // BLOCK)}", *(f"property float {name}" for name in BOXES),
             f"element vertex {count}", *(f"property uint {name}" for name in WORDS)]  # fmt: skip
    if harmonics:
        lines.append(f"element sh {count}")
        lines += [f"property uchar f_rest_{n}" for n in range(harmonics)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")


def _read(file: Path) -> tuple[int, int, bytes]:
    """Number of splats, of higher harmonics a splat, and the bytes behind the header."""
    with file.open("rb") as source:
        head = source.read(HEADER_BYTES).split(b"end_header\n")[0] + b"end_header\n"
        count = 0
        for line in head.split(b"\n"):
            if line.startswith(b"element vertex ") and line.split()[2].isdigit():
                count = int(line.split()[2])
        harmonics = head.count(b"property uchar f_rest_")
        if not 0 < count <= SPLATS_MAX or harmonics % 3 or head != _header(count, harmonics):
            raise CorruptData(f"{file} is no packed PLY of ours, or holds no splats")
        source.seek(len(head))
        size = -(-count // BLOCK) * len(BOXES) * 4 + count * (16 + harmonics)
        data = source.read(size + 1)
    if len(data) != size:
        raise CorruptData(f"{file} has {len(data)} bytes behind its header; {size} are needed")
    return count, harmonics, data
