"""Untrusted photo or depth bytes on stdin -> one JSON line and raw pixels on stdout.

This file runs as a script of its own in a short-lived process (architecture page 3.5): it imports
nothing of ours and no torch, it first limits its own memory and time, it reads sizes from headers
and compares them with the caps before anything large is allocated, and it never unpickles.
Whatever goes wrong is a `{"error": kind, "text": words}` line; the parent turns it into our errors.
"""

from __future__ import annotations

import json
import math
import resource
import struct
import sys
import zipfile
import zlib
from typing import Any, BinaryIO

MEMORY_BYTES = 2 << 30  # Address space of this process (architecture page 3.5).
CPU_SECONDS = 20  # Processor time of this process (architecture page 3.5).
KINDS = {
    b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
    b"%PDF": "a PDF", b"\0\0\1\0": "an icon", b"v/1\1": "an EXR file", b"PK\3\4": "a zip archive",
    b"<svg": "an SVG drawing", b"<?xml": "an XML file", b"\xff\x0a": "a JPEG XL",
    b"\x93NUMPY": "a numpy array", b"\0\0\0\x0cjP": "a JPEG 2000",
}  # fmt: skip
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError,
)  # fmt: skip
"""What decoders raise for damaged files."""
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)  # The 35 mm frame that EXIF's equivalent refers to.
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF FocalPlaneResolutionUnit -> mm.
DEPTH_KEYS = ("depth", "z", "depth_m", "arr_0")  # Names looked for in an npz, in this order.
EXR_CHANNELS = ("Z", "depth", "depth.Z", "Depth", "Y", "R")  # The same for EXR channels.


class Refused(Exception):
    """This input is refused; `kind` is one of photo, large, depth."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def main() -> int:
    """Decode stdin as `argv[1]` (photo or depth) under the caps in `argv[2]` (JSON)."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decode = {"photo": decode_photo, "depth": decode_depth}[sys.argv[1]]
    try:
        head, pixels = decode(sys.stdin.buffer, json.loads(sys.argv[2]))
    except Refused as error:
        head, pixels = {"error": error.kind, "text": str(error)}, b""
    except MemoryError:
        head, pixels = {"error": sys.argv[1], "text": "needs more than 2 GB to decode"}, b""
    except BROKEN as error:
        words = f"cannot be decoded ({str(error)[:120] or type(error).__name__})"
        head, pixels = {"error": sys.argv[1], "text": words}, b""
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    sys.stdout.buffer.write(pixels)
    sys.stdout.buffer.flush()
    return 0


def decode_photo(file: BinaryIO, caps: dict[str, int]) -> tuple[dict[str, Any], bytes]:
    """A still PNG, JPEG or WebP as upright 8-bit sRGB, no larger than `caps["max_side"]`."""
    head = file.read(32)
    file.seek(0)
    if not (head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff" or _is_webp(head)):
        raise Refused("photo", f"is {_kind_of(head)}, not a PNG, JPEG or WebP photo")
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # Our own cap below is tighter and says what to do.
    image = Image.open(file, formats=["PNG", "JPEG", "WEBP"])
    _check_photo_size(*image.size, caps)
    # A phone's MPO is a JPEG with a second still picture behind the first, not an animation.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        count = getattr(image, "n_frames", 1)
        raise Refused("photo", f"is an animated {image.format} with {count} frames, not a still")
    stored_mode, stored_size = image.mode, image.size
    image.load()
    exif = image.getexif()
    focal, source = _exif_focal(exif, *image.size)
    turned = exif.get(0x0112, 1) not in (1, None)
    image = ImageOps.exif_transpose(image)
    notes: list[str] = []
    image = _to_rgb(image, notes)
    if turned:
        notes.append("photo turned upright as its EXIF orientation says")
    width, height = image.size
    shrink = min(1.0, caps["max_side"] / max(width, height))
    if shrink < 1.0:
        small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = image.resize(small, Image.Resampling.BOX)
    answer = {
        "width": image.width, "height": image.height, "full_width": width, "full_height": height,
        "focal_px": focal, "focal_source": source, "notes": notes,
        "stored": f"{stored_mode} {stored_size[0]} x {stored_size[1]}",
    }  # fmt: skip
    return answer, image.tobytes()


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _kind_of(head: bytes) -> str:
    for magic, name in KINDS.items():
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if not head:
        return "empty"
    return f"no known image format (it starts with {head[:8].hex(' ')})"


def _check_photo_size(width: int, height: int, caps: dict[str, int]) -> None:
    size = f"{width} x {height} = {width * height / 1e6:.1f} Mpx"
    if width * height > caps["photo_pixels"]:
        raise Refused("large", f"is {size}; the limit is {caps['photo_pixels'] / 1e6:g} Mpx")
    if min(width, height) < caps["photo_min_side"]:
        raise Refused(
            "photo",
            f"is {width} x {height} px; its shorter side must be {caps['photo_min_side']} or more",
        )


def _to_rgb(image: Any, notes: list[str]) -> Any:
    """Any PIL mode as 8-bit sRGB; says in `notes` what was changed."""
    from PIL import Image

    mode = image.mode
    if mode.startswith("I"):
        notes.append("16-bit grey reduced to 8 bits")
        return image.convert("I").point(lambda v: v * (1 / 257)).convert("L").convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        notes.append("transparent parts shown on white")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and mode in ("RGB", "CMYK", "L"):
        converted = _through_profile(image, profile, notes)
        if converted is not None:
            return converted
    words = {"CMYK": "CMYK colours", "P": "palette colours", "L": "grey", "1": "black and white"}
    if mode != "RGB":
        notes.append(f"{words.get(mode, mode + ' pixels')} converted to RGB")
    return image.convert("RGB")


def _through_profile(image: Any, profile: bytes, notes: list[str]) -> Any:
    """The image in sRGB through its colour profile; None when the profile is unusable."""
    import io

    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        target = ImageCms.createProfile("sRGB")
        result = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImportError, OSError, ValueError, TypeError):
        notes.append("the photo's colour profile is unusable and was ignored")
        return None
    if image.mode != "RGB" or not name.lower().startswith("srgb"):
        notes.append(f"colours converted from {name[:60]!r} to sRGB")
    return result


def _exif_focal(exif: Any, width: int, height: int) -> tuple[float | None, str]:
    """Focal length in pixels of the stored image and the EXIF field it came from."""
    detail = exif.get_ifd(0x8769)

    def number(tag: int) -> float:
        try:
            value = float(detail.get(tag, 0))
        except (TypeError, ValueError, ZeroDivisionError):
            return 0.0
        return value if math.isfinite(value) and value > 0 else 0.0

    equivalent = number(0xA405)
    if equivalent:
        return equivalent / FILM_DIAGONAL_MM * math.hypot(width, height), "FocalLengthIn35mmFilm"
    focal_mm, density = number(0x920A), number(0xA20E)
    unit = MM_PER_UNIT.get(int(number(0xA210)) or 2)
    if focal_mm and density and unit:
        # The density belongs to the picture that the camera wrote; a smaller copy keeps the tag.
        long_side = max(number(0xA002), number(0xA003)) or max(width, height)
        return focal_mm * density / unit * max(width, height) / long_side, "FocalPlaneXResolution"
    return None, ""


def decode_depth(file: BinaryIO, caps: dict[str, int]) -> tuple[dict[str, Any], bytes]:
    """A depth map (npy, npz, 16-bit PNG in millimetres, EXR) as float32 metres."""
    head = file.read(8)
    file.seek(0)
    notes: list[str] = []
    if head[:6] == b"\x93NUMPY":
        depth = _read_npy(file, caps, notes)
    elif head[:4] == b"PK\3\4":
        depth = _read_npz(file, caps, notes)
    elif head == b"\x89PNG\r\n\x1a\n":
        depth = _read_depth_png(file, caps)
    elif head[:4] == b"v/1\1":
        depth = _read_exr(file, caps)
    else:
        raise Refused("depth", f"is {_kind_of(head)}, not an npy, npz, 16-bit PNG or EXR depth map")
    height, width = depth.shape
    return {"width": width, "height": height, "notes": notes}, depth.tobytes()


def _check_depth_size(shape: tuple[int, ...], caps: dict[str, int]) -> tuple[int, int]:
    """The (h, w) of an array of depths; refuses other shapes before they are allocated."""
    plane = tuple(int(n) for n in shape)
    if len(plane) == 3 and 1 in (plane[0], plane[2]):
        plane = plane[1:] if plane[0] == 1 else plane[:2]
    if len(plane) != 2 or min(plane) < 1:
        raise Refused("depth", f"has shape {tuple(shape)}; one value per pixel, [h w], is needed")
    if plane[0] * plane[1] > caps["photo_pixels"]:
        limit = caps["photo_pixels"] / 1e6
        raise Refused("depth", f"is {plane[1]} x {plane[0]} px; the limit is {limit:g} Mpx")
    return plane[0], plane[1]


def _read_npy(file: BinaryIO, caps: dict[str, int], notes: list[str]) -> Any:
    import numpy as np

    version = np.lib.format.read_magic(file)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if header is None:
        raise Refused("depth", f"is npy version {version}; save it with a current numpy")
    shape, fortran, dtype = header(file)
    plane = _check_depth_size(shape, caps)
    if dtype.hasobject or dtype.kind not in "fui":
        raise Refused("depth", f"holds {dtype}; floats in metres or integers in mm are needed")
    count = plane[0] * plane[1]
    raw = file.read(count * dtype.itemsize)
    if len(raw) < count * dtype.itemsize:
        raise Refused("depth", f"is cut off: {len(raw)} of {count * dtype.itemsize} bytes of data")
    data = np.frombuffer(raw, dtype).reshape(plane, order="F" if fortran else "C")
    if dtype.kind == "f":
        return np.ascontiguousarray(data, np.float32)
    notes.append("integer depth taken as millimetres")
    return np.ascontiguousarray(data, np.float32) / np.float32(1000)


def _read_npz(file: BinaryIO, caps: dict[str, int], notes: list[str]) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        wanted = [key for key in DEPTH_KEYS if key in names] or (names if len(names) == 1 else [])
        if not wanted:
            listed = ", ".join(names[:6]) or "no arrays"
            raise Refused("depth", f"holds {listed}; name the depth map 'depth'")
        with archive.open(wanted[0] + ".npy") as member:
            return _read_npy(member, caps, notes)


def _read_depth_png(file: BinaryIO, caps: dict[str, int]) -> Any:
    import numpy as np
    from PIL import Image

    head = file.read(26)
    file.seek(0)
    if len(head) < 26 or head[12:16] != b"IHDR":
        raise Refused("depth", "is a damaged PNG")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    _check_depth_size((height, width), caps)
    if (bits, colour) != (16, 0):
        raise Refused("depth", f"is a {bits}-bit PNG; 16-bit grey in millimetres is needed")
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(file, formats=["PNG"])
    return np.asarray(image.convert("I"), np.float32) / np.float32(1000)


def _read_exr(file: BinaryIO, caps: dict[str, int]) -> Any:
    import numpy as np

    _check_depth_size(_exr_size(file.read(1 << 16)), caps)
    try:
        import OpenEXR
    except ImportError:
        raise Refused(
            "depth", "is an EXR file and OpenEXR is not installed; pip install 'worldloom[exr]'"
        ) from None
    try:
        # The library wants a name; this one is the file that stdin already is.
        channels = OpenEXR.File("/dev/stdin", separate_channels=True).channels()
    except Exception as error:
        raise Refused("depth", f"is a damaged EXR file ({str(error)[:120]})") from error
    found = [name for name in EXR_CHANNELS if name in channels]
    if not found and len(channels) == 1:
        found = list(channels)
    if not found:
        listed = ", ".join(list(channels)[:6])
        raise Refused("depth", f"has the channels {listed}; name the depth channel Z")
    data = np.asarray(channels[found[0]].pixels)
    _check_depth_size(data.shape, caps)
    return np.ascontiguousarray(data, np.float32)


def _exr_size(head: bytes) -> tuple[int, int]:
    """(h, w) of the data window, from the attribute list at the start of the file."""
    at = head.find(b"dataWindow\0box2i\0")
    if at < 0 or at + 37 > len(head):
        raise Refused("depth", "is an EXR file without a data window")
    x0, y0, x1, y1 = struct.unpack("<4i", head[at + 21 : at + 37])
    return max(0, y1 - y0 + 1), max(0, x1 - x0 + 1)


if __name__ == "__main__":
    sys.exit(main())
