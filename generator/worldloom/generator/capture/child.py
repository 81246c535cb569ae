"""Untrusted capture archive on stdin -> one JSON line and raw arrays on stdout.

This file runs as a script of its own in a short-lived process (architecture page 3.5): it imports
nothing of ours and no torch, it first limits its own memory and time, it unpacks nothing to disk,
it reads sizes from headers and compares them with the caps before anything large is allocated, and
it never unpickles. Whatever goes wrong is an `{"error": words}` line.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
import zipfile
import zlib
from typing import Any

MEMORY_BYTES = 2 << 30  # Address space of this process (architecture page 3.5).
CPU_SECONDS = 20  # Processor time of this process (architecture page 3.5).
HEADER_BYTES = 30  # Fixed part of a zip member's local header.
CAMERAS_BYTES = 64 << 20  # Largest cameras.npz; 8001 poses have 1.7 MB.
ARRAYS = ("c2w", "K", "up")
NPY_VERSIONS = ((1, 0), (2, 0))
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What decoders raise for damaged files."""


class Refused(Exception):
    """This archive is refused; the text says why."""


def main() -> int:
    """Do `argv[1]` (list or frames) on the archive on stdin, under the caps in `argv[2]`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work = {"list": list_archive, "frames": read_frames}[sys.argv[1]]
    try:
        with zipfile.ZipFile(sys.stdin.buffer) as archive:
            head, data = work(archive, json.loads(sys.argv[2]))
    except Refused as error:
        head, data = {"error": str(error)}, []
    except MemoryError:
        head, data = {"error": "needs more than 2 GB to decode"}, []
    except BROKEN as error:
        words = str(error)[:120] or type(error).__name__
        head, data = {"error": f"cannot be decoded ({words})"}, []
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for block in data:
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    return 0


def list_archive(
    archive: zipfile.ZipFile, caps: dict[str, int]
) -> tuple[dict[str, Any], list[bytes]]:
    """Names, sizes of the pictures, and the arrays of cameras.npz as float64."""
    members = check_members(archive.infolist(), caps)
    sizes: dict[str, list[int]] = {}
    for name, info in members.items():
        if name.startswith("frames/"):
            sizes[name] = _frame_size(archive, info, caps)
        elif name.startswith("depth/"):
            sizes[name] = _depth_size(archive, info, caps)
    arrays: dict[str, list[int]] = {}
    data: list[bytes] = []
    if "cameras.npz" in members:
        for key, array in _read_cameras(archive, members["cameras.npz"], caps).items():
            arrays[key] = list(array.shape)
            data.append(array.tobytes())
    return {"names": list(members), "sizes": sizes, "arrays": arrays}, data


def check_members(infos: list[zipfile.ZipInfo], caps: dict[str, int]) -> dict[str, zipfile.ZipInfo]:
    """Members by name; refuses what a client of ours never packs, bombs above all."""
    if len(infos) > 2 * caps["frames"] + 1:
        raise Refused(f"holds {len(infos)} files; the limit is {caps['frames']} frames")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        # The name as it is stored: zipfile itself cuts names at NUL and turns backslashes.
        name = info.orig_filename
        if name in members:
            raise Refused(f"holds {name[:120]!r} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused(f"holds {name[:120]!r} compressed; store it (zip -0)")
        if info.flag_bits & 0x1:
            raise Refused(f"holds {name[:120]!r} encrypted")
        members[name] = info
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise Refused(f"holds {info.orig_filename[:120]!r} inside of another file")
        end = info.header_offset + HEADER_BYTES + info.compress_size
    return members


def _frame_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo, caps: dict[str, int]) -> list[int]:
    with archive.open(info) as member:
        width, height = _open_image(member, info.orig_filename).size
    pixels = caps["pixels"]
    if width * height > pixels:
        raise Refused(
            f"{info.orig_filename} is {width} x {height} px; the limit is {pixels / 1e6:g} Mpx"
        )
    return [width, height]


def _open_image(member: Any, name: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # Our own caps are tighter and say what to do.
    try:
        return Image.open(member, formats=["PNG", "JPEG"])
    except UnidentifiedImageError:
        raise Refused(f"{name} is no PNG or JPEG") from None


def _depth_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo, caps: dict[str, int]) -> list[int]:
    name = info.orig_filename
    with archive.open(info) as member:
        png = name.endswith("png")
        height, width = _png_plane(member, name) if png else _npy_plane(member, name)[0]
    if not 0 < width * height <= caps["depth_pixels"]:
        limit = caps["depth_pixels"] / 1e6
        raise Refused(f"{name} is {width} x {height} px; the limit is {limit:g} Mpx")
    return [width, height]


def _png_plane(member: Any, name: str) -> tuple[int, int]:
    head = member.read(26)
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise Refused(f"{name} is no PNG")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if (bits, colour) != (16, 0):
        raise Refused(f"{name} is a {bits}-bit PNG; 16-bit grey in millimetres is needed")
    return height, width


def _npy_plane(member: Any, name: str) -> tuple[tuple[int, int], bool, Any]:
    shape, fortran, dtype = _npy_header(member, name)
    if len(shape) != 2 or dtype.kind != "f":
        raise Refused(f"{name} holds {dtype} of shape {list(shape)}; float metres [h w] are needed")
    return shape, fortran, dtype


def _npy_header(member: Any, name: str) -> tuple[Any, bool, Any]:
    import numpy as np

    version = np.lib.format.read_magic(member)
    if version not in NPY_VERSIONS:
        raise Refused(f"{name} is npy version {version}; save it with a current numpy")
    read = (np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0)
    shape, fortran, dtype = read[NPY_VERSIONS.index(version)](member)
    if dtype.hasobject or dtype.kind not in "fui":
        raise Refused(f"{name} holds {dtype}; numbers are needed")
    return shape, fortran, dtype


def _npy_data(member: Any, name: str, shape: Any, fortran: bool, dtype: Any) -> Any:
    import numpy as np

    count = int(np.prod(shape, dtype=np.int64))
    raw = member.read(count * dtype.itemsize)
    if len(raw) < count * dtype.itemsize:
        raise Refused(f"{name} is cut off: {len(raw)} of {count * dtype.itemsize} bytes of data")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _read_cameras(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, caps: dict[str, int]
) -> dict[str, Any]:
    """The arrays of cameras.npz; their sizes are checked before they are read."""
    import numpy as np

    if info.file_size > CAMERAS_BYTES:
        raise Refused(f"cameras.npz has {info.file_size >> 20} MiB; the limit is 64 MiB")
    out: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(archive.read(info))) as inner:
        names = inner.namelist()
        for key in ARRAYS:
            if key + ".npy" not in names:
                continue
            with inner.open(key + ".npy") as member:
                shape, fortran, dtype = _npy_header(member, f"cameras.npz:{key}")
                if int(np.prod(shape, dtype=np.float64)) > 16 * 4 * caps["frames"]:
                    raise Refused(f"cameras.npz has {key} of shape {list(shape)}")
                data = _npy_data(member, f"cameras.npz:{key}", shape, fortran, dtype)
                out[key] = np.ascontiguousarray(data, np.float64)
    missing = [key for key in ARRAYS[:2] if key not in out]
    if missing:
        raise Refused(f"cameras.npz has no array {missing[0]}; c2w and K are needed")
    return out


def read_frames(
    archive: zipfile.ZipFile, caps: dict[str, Any]
) -> tuple[dict[str, Any], list[bytes]]:
    """The pictures `caps["wanted"]` as 8-bit sRGB of `caps["size"]`, and their depth as float32.

    `wanted` is a list of [name of the picture or None, name of the depth or None].
    """
    members = check_members(archive.infolist(), caps)
    shapes: list[list[Any]] = []
    data: list[bytes] = []
    for picture, depth in caps["wanted"]:
        shape: list[Any] = [None, None]
        if picture is not None:
            data.append(_picture(archive, members[picture], tuple(caps["size"]), caps))
            shape[0] = [caps["size"][1], caps["size"][0], 3]
        if depth is not None:
            array = _depth(archive, members[depth], caps)
            data.append(array.tobytes())
            shape[1] = list(array.shape)
        shapes.append(shape)
    return {"shapes": shapes}, data


def _picture(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: tuple[int, int], caps: dict[str, Any]
) -> bytes:
    from PIL import Image

    _frame_size(archive, info, caps)
    with archive.open(info) as member:
        image = _open_image(member, info.orig_filename)
        if image.mode.startswith(("I", "F")):
            raise Refused(f"{info.orig_filename} has {image.mode} pixels; 8-bit RGB is needed")
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which costs that much less.
        image.draft("RGB", size)
        image = image.convert("RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BOX)
        return image.tobytes()


def _depth(archive: zipfile.ZipFile, info: zipfile.ZipInfo, caps: dict[str, Any]) -> Any:
    import numpy as np

    name = info.orig_filename
    _depth_size(archive, info, caps)
    with archive.open(info) as member:
        if name.endswith("npy"):
            shape, fortran, dtype = _npy_plane(member, name)
            return np.ascontiguousarray(_npy_data(member, name, shape, fortran, dtype), np.float32)
        image = _open_image(member, name)
        return np.asarray(image.convert("I"), np.float32) / np.float32(1000)


if __name__ == "__main__":
    sys.exit(main())
