"""Splats <-> SPZ files, version 3 (Niantic's packed format, github.com/nianticlabs/spz).

One gzip stream: a header of 16 bytes (magic `NGSP`, version, count, SH degree, fractional bits,
flags, 0), then whole sections: positions 3 x 24-bit fixed point, alphas 1 byte, colours 3 bytes,
log scales 3 bytes, rotations 4 bytes ("smallest three"), harmonics 3 bytes a coefficient. About a
tenth of a PLY. Coordinates are the world's, Z up, in metres, as in our PLY files.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData
from worldloom.scene.splats import Splats

MAGIC, VERSION = 0x5053474E, 3
HEADER = "<IIIBBBB"
SPLATS_MAX = 50_000_000  # More are refused before any memory is taken for them.
FRACTION_BITS = 12
"""Positions on a grid of 2^-12 m = 0.24 mm, up to 2048 m from the origin; fewer bits farther."""
COLOUR_SCALE = 0.15  # Bytes per unit of the constant harmonic, of 255 (load-spz.cc).
SQRT_HALF = 0.7071067811865476


def save_spz(splats: Splats, file: Path) -> None:
    """Write splats; the same splats give the same bytes.

    Raises:
        CorruptData: A splat is not finite, or farther out than the format can say.
    """
    far = float(np.abs(splats.means).max(initial=0.0))
    bits = FRACTION_BITS
    while bits > 0 and far * (1 << bits) >= (1 << 23) - 1:
        bits -= 1
    if not far * (1 << bits) < (1 << 23) - 1:
        raise CorruptData(
            f"a splat lies {far:g} m from the origin; SPZ holds up to {1 << 23} m. Move the world"
        )
    fixed = np.round(splats.means.astype(np.float64) * (1 << bits)).astype("<i4")
    opacity = np.round(splats.opacities * 255)
    colour = splats.sh[:, 0] * (COLOUR_SCALE * 255) + 127.5
    scale = (np.log(np.maximum(splats.scales, 1e-30)) + 10) * 16
    higher = splats.sh[:, 1:].reshape(splats.n, 3 * (splats.sh.shape[1] - 1)) * 128 + 128
    sections = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3],
        *(_byte(values) for values in (opacity, colour, scale)),
        _pack_rotations(splats.quats_wxyz),
        _byte(higher),
    ]
    head = struct.pack(HEADER, MAGIC, VERSION, splats.n, splats.degree, bits, 0, 0)
    body = head + b"".join(np.ascontiguousarray(section).tobytes() for section in sections)
    file.write_bytes(gzip.compress(body, 6, mtime=0))


def load_spz(file: Path) -> Splats:
    """Read an SPZ file of version 3.

    Raises:
        CorruptData: Not such a file, damaged, or of another version.
    """
    try:
        with gzip.open(file) as source:
            head = source.read(16)
            magic, version, n, degree, bits, _, _ = struct.unpack(HEADER, head)
            if magic != MAGIC or version != VERSION or degree > 3 or n > SPLATS_MAX:
                raise CorruptData(
                    f"{file} has magic {magic:#x}, version {version}, degree {degree} and {n} "
                    f"splats; an SPZ of version {VERSION}, degree 0 to 3 and at most "
                    f"{SPLATS_MAX} splats is read"
                )
            widths = (9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1))
            body = source.read(n * sum(widths) + 1)
    except (OSError, EOFError, struct.error) as error:
        raise CorruptData(f"{file} is not an SPZ file, or it is cut: {error}") from error
    if len(body) != n * sum(widths):
        raise CorruptData(f"{file} holds {len(body)} bytes; {n} splats need {n * sum(widths)}")
    ends = np.cumsum([0, *(n * width for width in widths)])
    data = np.frombuffer(body, np.uint8)
    parts = [data[a:b].reshape(n, w) for a, b, w in zip(ends, ends[1:], widths, strict=False)]
    return _unpack(parts, bits)


def _unpack(parts: list[NDArray[np.uint8]], bits: int) -> Splats:
    position, opacity, colour, scale, rotation, higher = parts
    n = len(position)
    three = position.reshape(n, 3, 3).astype(np.int32)
    fixed = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    fixed = np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed)
    dc = (colour.astype(np.float32) - 127.5) / np.float32(COLOUR_SCALE * 255)
    rest = (higher.reshape(n, higher.shape[1] // 3, 3).astype(np.float32) - 128) / 128
    return Splats(
        (fixed / float(1 << bits)).astype(np.float32),
        np.exp(scale.astype(np.float32) / 16 - 10),
        _unpack_rotations(rotation),
        opacity[:, 0].astype(np.float32) / 255,
        np.ascontiguousarray(np.concatenate([dc[:, None], rest], 1)),
    )


def _byte(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _pack_rotations(quats_wxyz: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The three smaller components x y z w as sign and 9 bits, and which is left out, [n 4]."""
    q = np.roll(quats_wxyz.astype(np.float64), -1, 1)
    rows, largest = np.arange(len(q)), np.argmax(np.abs(q), 1)
    q = q * np.where(q[rows, largest] < 0, -1.0, 1.0)[:, None]
    magnitude = np.clip(np.round(511 * np.abs(q) / SQRT_HALF), 0, 511).astype(np.uint32)
    packed = np.zeros(len(q), "<u4")
    for axis in range(4):
        ten = (q[:, axis] < 0).astype(np.uint32) << 9 | magnitude[:, axis]
        packed = np.where(largest == axis, packed, packed << 10 | ten)
    packed |= largest.astype(np.uint32) << 30
    return packed.astype("<u4").view(np.uint8).reshape(-1, 4)


def _unpack_rotations(rotation: NDArray[np.uint8]) -> NDArray[np.float32]:
    packed = np.ascontiguousarray(rotation).view("<u4")[:, 0].astype(np.uint32)
    largest = packed >> 30
    q = np.zeros((len(packed), 4))
    for axis in (3, 2, 1, 0):
        value = SQRT_HALF * (packed & 511) / 511 * np.where(packed >> 9 & 1, -1.0, 1.0)
        own = largest == axis
        q[:, axis] = np.where(own, 0.0, value)
        packed = np.where(own, packed, packed >> 10)
    rows = np.arange(len(q))
    q[rows, largest] = np.sqrt(np.maximum(1 - np.sum(q * q, 1), 0))
    q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(np.roll(q, 1, 1), np.float32)
