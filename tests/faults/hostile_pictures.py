"""Pictures that no camera takes, by name: those to refuse, and those that may pass."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, *, bits=8, colour=2, extra=b"", data=None):
    """A PNG of one colour whose rows are really there, or `data` in their place."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    if data is None:
        row = b"\0" * (1 + (width * bits * {0: 1, 2: 3}[colour] + 7) // 8)
        packer = zlib.compressobj(9)
        data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return SIGNATURE + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb(kind, megabytes):
    """A text or profile chunk that is a thousand times as large when it is read."""
    packed = zlib.compress(b"x" * (megabytes << 20), 9)
    return chunk(kind, b"name\0\0" + packed)


def picture(size=(200, 150)):
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def jpeg_with_exif(entries, *, tail=b""):
    """A JPEG whose EXIF block has these raw 12-byte entries in its first folder."""
    folder = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + folder + tail
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    plain = saved(picture(), "JPEG")
    return plain[:2] + segment + plain[2:]


def entry(tag, kind, count, value):
    return struct.pack("<HHII", tag, kind, count, value)


def many_scans():
    """A progressive JPEG that repeats one scan ten thousand times: small, and slow to decode."""
    data = saved(picture((3000, 3000)).resize((3000, 3000)), "JPEG", progressive=True, quality=5)
    at = data.rfind(b"\xff\xda")
    scan = data[at : data.rfind(b"\xff\xd9")]
    return data[:at] + scan * min(10_000, (24 << 20) // len(scan)) + b"\xff\xd9"


FITS = b"".join(
    line.ljust(80)
    for line in (b"SIMPLE  =                    T", b"BITPIX  =                   16",
                 b"NAXIS   =                    2", b"NAXIS1  =               999999",
                 b"NAXIS2  =               999999", b"END")
).ljust(2880)  # fmt: skip


def refused():
    """Pictures that must be refused, by name."""
    frames = [picture(), picture((200, 150)).rotate(3)]
    jpeg = saved(picture(), "JPEG")
    return {
        "196 Mpx in 24 kB": png(14_000, 14_000, bits=1, colour=0),
        "a header of 4 Gpx": png(65_535, 65_535, data=zlib.compress(b"")),
        "the largest PNG there is": png(2**31 - 1, 2**31 - 1, data=zlib.compress(b"")),
        "a size of zero": png(0, 100, data=zlib.compress(b"")),
        "a still GIF": saved(picture(), "GIF"),
        "an animated GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "an animated PNG": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "an animated WebP": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "FITS": FITS,
        "gzipped FITS": b"\x1f\x8b" + zlib.compress(FITS),
        "TIFF": saved(picture(), "TIFF"),
        "PDF": saved(picture(), "PDF"),
        "PostScript that runs a program": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (r) file\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a JPEG without an end": jpeg[:-200],
        "a JPEG of 65500 x 65500": jpeg.replace(struct.pack(">HH", 150, 200), b"\xff\xdc" * 2, 1),
        "half a PNG": saved(picture(), "PNG")[:20_000],
        "a text of 300 MB in a PNG": png(200, 150, extra=text_bomb(b"zTXt", 300)),
        "rows without end in a PNG": png(200, 150, data=zlib.compress(b"\xff" * 1000)),
        "nothing": b"",
        "noise": np.random.default_rng(2).bytes(100_000),
    }


def odd():
    """Pictures that may be taken or refused, but only within bounds of memory and time."""
    return {
        "EXIF that points to itself": jpeg_with_exif(
            [entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8), entry(0xA005, 4, 1, 8)]
        ),
        "EXIF of 4 GB": jpeg_with_exif([entry(0x010F, 2, 2**32 - 1, 8)]),
        "EXIF with a fraction by zero": jpeg_with_exif([entry(0x920A, 5, 1, 26)], tail=bytes(8)),
        "EXIF of noise": jpeg_with_exif([np.random.default_rng(3).bytes(12)] * 50),
        "a profile of 300 MB in a PNG": png(200, 150, extra=text_bomb(b"iCCP", 300)),
        "a progressive JPEG of thousands of scans": many_scans(),
    }
