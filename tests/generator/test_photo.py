"""Photos and depth maps from outside: what is taken, what is refused, and with which words."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from worldloom.generator import photo as photos
from worldloom.generator.photo import load_depth, load_photo
from worldloom.scene.errors import InvalidDepth, InvalidPhoto, PhotoTooLarge
from worldloom.scene.limits import Limits

WIDTH, HEIGHT = 120, 80


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def saved(path, image, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


def exif_bytes(**tags):
    exif = Image.Exif()
    numbers = {"orientation": 0x0112}
    inner = {"equivalent": 0xA405, "focal": 0x920A, "density": 0xA20E, "unit": 0xA210,
             "width": 0xA002}  # fmt: skip
    for name, value in tags.items():
        if name in numbers:
            exif[numbers[name]] = value
        else:
            exif.get_ifd(0x8769)[inner[name]] = value
    return exif.tobytes()


def png_header(width, height, bits=8, colour=2):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_lossless_photo_keeps_every_colour(tmp_path, picture, suffix):
    file = saved(
        tmp_path / f"p.{suffix}", picture, **({"lossless": True} if suffix == "webp" else {})
    )
    photo = load_photo(file)
    assert (photo.rgb * 255 + 0.5).astype(np.uint8).tolist() == picture.tolist()
    assert (photo.full_width, photo.full_height, photo.focal_px) == (WIDTH, HEIGHT, None)


def test_no_photo_names_the_path(tmp_path):
    with pytest.raises(InvalidPhoto, match="cannot be read"):
        load_photo(tmp_path / "missing.jpg")
    with pytest.raises(InvalidPhoto, match="not a file"):
        load_photo(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "p.jpg").write_bytes(b"")
    with pytest.raises(InvalidPhoto, match="0 bytes"):
        load_photo(tmp_path / "p.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"hello world, this is text", "no known image format"), (b"%PDF-1.7 ....", "a PDF"),
     (b"\0\0\0\x18ftypheic....", "HEIC"), (b"\x89PNG\r\n\x1a\nrubbish", "cannot be decoded")],
)  # fmt: skip
def test_what_is_not_an_image_is_refused_by_its_kind(tmp_path, content, words):
    (tmp_path / "p.jpg").write_bytes(content)
    with pytest.raises(InvalidPhoto, match=words) as caught:
        load_photo(tmp_path / "p.jpg")
    assert "Give a still PNG, JPEG or WebP" in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_off_photo_is_refused(tmp_path, picture, suffix):
    whole = saved(tmp_path / f"p.{suffix}", picture).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidPhoto, match="cannot be decoded"):
        load_photo(tmp_path / f"cut.{suffix}")


def test_a_200_megapixel_bomb_is_refused_from_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(20_000, 10_000))
    with pytest.raises(PhotoTooLarge, match=r"20000 x 10000 = 200.0 Mpx; the limit is 50 Mpx"):
        load_photo(tmp_path / "bomb.png")


def test_too_many_bytes_are_refused_before_decoding(tmp_path, picture):
    file = saved(tmp_path / "p.png", picture)
    with pytest.raises(PhotoTooLarge, match="the limit is"):
        load_photo(file, limits=Limits(photo_bytes=1000))


def test_a_tiny_photo_is_refused(tmp_path, picture):
    file = saved(tmp_path / "p.png", picture[:20])
    with pytest.raises(InvalidPhoto, match="120 x 20 px; its shorter side must be 64"):
        load_photo(file)


def test_an_animated_gif_is_refused(tmp_path, picture):
    frames = [Image.fromarray(np.roll(picture, k, 1)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidPhoto, match="a GIF, not a PNG"):
        load_photo(tmp_path / "a.gif")


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animations_in_allowed_formats_are_refused(tmp_path, picture, suffix):
    frames = [Image.fromarray(np.roll(picture, k, 1)) for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidPhoto, match=r"animated .* with 3 frames"):
        load_photo(tmp_path / f"a.{suffix}")


def test_cmyk_is_converted_and_said(tmp_path):
    red = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30)).convert("CMYK")
    photo = load_photo(saved(tmp_path / "p.jpg", red, quality=95))
    assert photo.rgb.mean((0, 1)) * 255 == pytest.approx([200, 30, 30], abs=6)
    assert any("CMYK" in note for note in photo.notes)


def test_16_bit_grey_keeps_its_brightness(tmp_path):
    grey = np.full((HEIGHT, WIDTH), 0.5 * 65535, np.uint16)
    photo = load_photo(saved(tmp_path / "p.png", grey))
    assert photo.rgb == pytest.approx(np.full((HEIGHT, WIDTH, 3), 0.5), abs=0.005)
    assert any("16-bit" in note for note in photo.notes)


def test_transparent_parts_are_shown_on_white(tmp_path, picture):
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, 60:] = 255
    photo = load_photo(saved(tmp_path / "p.png", np.concatenate([picture, alpha], -1)))
    assert (photo.rgb[:, :60] == 1.0).all()
    assert photo.rgb[:, 60:] * 255 == pytest.approx(picture[:, 60:].astype(float), abs=0.6)
    assert any("transparent" in note for note in photo.notes)


def test_palettes_become_colours(tmp_path):
    image = Image.new("RGB", (WIDTH, HEIGHT), (10, 120, 240)).quantize(8)
    photo = load_photo(saved(tmp_path / "p.png", image))
    assert photo.rgb[0, 0] * 255 == pytest.approx([10, 120, 240], abs=1)


def test_a_rotated_photo_is_turned_upright(tmp_path, picture):
    turned = np.rot90(picture)  # As a camera held on its side stores it.
    file = saved(tmp_path / "p.png", turned, exif=exif_bytes(orientation=6))
    photo = load_photo(file)
    assert (photo.full_width, photo.full_height) == (WIDTH, HEIGHT)
    assert (photo.rgb * 255 + 0.5).astype(np.uint8).tolist() == picture.tolist()
    assert any("upright" in note for note in photo.notes)


def test_the_focal_length_comes_from_exif(tmp_path, picture):
    file = saved(tmp_path / "a.jpg", picture, exif=exif_bytes(equivalent=35))
    diagonal = np.hypot(WIDTH, HEIGHT)
    assert load_photo(file).focal_px == pytest.approx(35 / np.hypot(36, 24) * diagonal)
    file = saved(
        tmp_path / "b.jpg", picture, exif=exif_bytes(focal=20.0, density=254.0, unit=2, width=240)
    )
    photo = load_photo(file)  # 20 mm x 10 px/mm at 240 px wide, 100 px at 120.
    assert photo.focal_px == pytest.approx(100.0)
    assert photo.focal_source == "FocalPlaneXResolution"


def test_an_impossible_focal_length_is_ignored_and_said(tmp_path, picture):
    photo = load_photo(saved(tmp_path / "p.jpg", picture, exif=exif_bytes(equivalent=9000)))
    assert photo.focal_px is None
    assert any("ignored" in note for note in photo.notes)


def test_large_photos_are_averaged_down_and_keep_their_focal_length_in_pixels(tmp_path):
    image = Image.new("RGB", (2400, 1600), (90, 90, 90))
    photo = load_photo(
        saved(tmp_path / "p.jpg", image, exif=exif_bytes(equivalent=43)), max_side=600
    )
    assert photo.rgb.shape == (400, 600, 3)
    assert (photo.full_width, photo.full_height) == (2400, 1600)
    assert photo.focal_px == pytest.approx(43 / np.hypot(36, 24) * np.hypot(600, 400))


def test_a_decoder_that_dies_is_a_refusal_not_a_crash(tmp_path, picture, monkeypatch):
    file = saved(tmp_path / "p.png", picture)
    broken = tmp_path / "photo_child.py"
    broken.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(photos, "__file__", str(tmp_path / "photo.py"))
    with pytest.raises(InvalidPhoto, match="made the decoder stop"):
        load_photo(file)


def some_photo(tmp_path, picture):
    return load_photo(saved(tmp_path / "photo.png", picture))


@pytest.fixture
def depth():
    return (2 + np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) / 4000).astype(np.float32)


def test_every_depth_format_gives_the_same_metres(tmp_path, picture, depth):
    photo = some_photo(tmp_path, picture)
    np.save(tmp_path / "a.npy", depth)
    np.savez(tmp_path / "a.npz", other=np.zeros(3), depth=depth)
    saved(tmp_path / "a.png", np.round(depth * 1000).astype(np.uint16))
    np.save(tmp_path / "mm.npy", np.round(depth * 1000).astype(np.uint16))
    for name in ("a.npy", "a.npz", "a.png", "mm.npy"):
        found = load_depth(tmp_path / name, photo=photo)
        assert found.depth == pytest.approx(depth, abs=0.0006), name
        assert found.depth.dtype == np.float32


def test_exr_depth_is_read_where_openexr_is_there(tmp_path, picture, depth):
    openexr = pytest.importorskip("OpenEXR", reason="OpenEXR is optional")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"Z": depth}).write(str(tmp_path / "a.exr"))
    found = load_depth(tmp_path / "a.exr", photo=some_photo(tmp_path, picture))
    assert found.depth == pytest.approx(depth)


def test_depth_of_another_shape_is_refused_and_of_another_resolution_is_not(
    tmp_path, picture, depth
):
    photo = some_photo(tmp_path, picture)
    np.save(tmp_path / "half.npy", depth[::2, ::2])
    assert load_depth(tmp_path / "half.npy", photo=photo).depth.shape == (40, 60)
    np.save(tmp_path / "wrong.npy", depth[:, :60])
    with pytest.raises(InvalidDepth, match=r"60 x 80 px and the photo is 120 x 80"):
        load_depth(tmp_path / "wrong.npy", photo=photo)
    np.save(tmp_path / "turned.npy", np.ascontiguousarray(depth.T))
    with pytest.raises(InvalidDepth, match="upright"):
        load_depth(tmp_path / "turned.npy", photo=photo)


def test_nan_infinite_and_zero_depths_are_unknown_and_counted(tmp_path, picture, depth):
    depth[:10], depth[10:20], depth[20:30], depth[30:35] = np.nan, np.inf, 0, -3
    np.save(tmp_path / "a.npy", depth)
    found = load_depth(tmp_path / "a.npy", photo=some_photo(tmp_path, picture))
    assert (found.depth[:35] == 0).all()
    assert (found.depth[35:] > 0).all()
    assert any("43.8%" in note for note in found.notes)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_depth_without_values_is_refused(tmp_path, picture, depth, value):
    depth[2:] = value
    np.save(tmp_path / "a.npy", depth)
    with pytest.raises(InvalidDepth, match=r"2\.5% of its pixels; at least 10% is needed"):
        load_depth(tmp_path / "a.npy", photo=some_photo(tmp_path, picture))


def test_millimetres_in_floats_are_recognised_and_refused(tmp_path, picture, depth):
    np.save(tmp_path / "a.npy", depth * 1000)
    with pytest.raises(InvalidDepth, match="Divide millimetres by 1000"):
        load_depth(tmp_path / "a.npy", photo=some_photo(tmp_path, picture))


def test_pickles_bombs_and_lies_in_depth_files_are_refused(tmp_path, picture):
    photo = some_photo(tmp_path, picture)
    np.save(tmp_path / "object.npy", np.array([[object()]], object), allow_pickle=True)
    with pytest.raises(InvalidDepth, match="holds object"):
        load_depth(tmp_path / "object.npy", photo=photo)
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (100_000, 100_000)}
    np.lib.format.write_array_header_1_0(header, shape)
    (tmp_path / "bomb.npy").write_bytes(header.getvalue())
    with pytest.raises(InvalidDepth, match="the limit is 50 Mpx"):
        load_depth(tmp_path / "bomb.npy", photo=photo)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("depth.npy", header.getvalue())
    with pytest.raises(InvalidDepth, match="the limit is 50 Mpx"):
        load_depth(tmp_path / "bomb.npz", photo=photo)
    shape["shape"] = (HEIGHT, WIDTH)
    short = io.BytesIO()
    np.lib.format.write_array_header_1_0(short, shape)
    (tmp_path / "short.npy").write_bytes(short.getvalue() + b"\0" * 100)
    with pytest.raises(InvalidDepth, match="cut off"):
        load_depth(tmp_path / "short.npy", photo=photo)
    (tmp_path / "deep.png").write_bytes(png_header(20_000, 10_000, 16, 0))
    with pytest.raises(InvalidDepth, match="the limit is 50 Mpx"):
        load_depth(tmp_path / "deep.png", photo=photo)


def test_an_8_bit_picture_is_no_depth_map(tmp_path, picture):
    saved(tmp_path / "a.png", picture[..., 0])
    with pytest.raises(InvalidDepth, match="8-bit PNG; 16-bit grey in millimetres"):
        load_depth(tmp_path / "a.png", photo=some_photo(tmp_path, picture))
