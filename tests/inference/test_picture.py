"""Tests of still pictures: reading, refused files, atomic writing, and upstream's two ways of resizing."""

import os
import struct
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from inference.contract.errors import EDTalkError
from inference.media.frames import read_frame
from inference.media.picture import frames_to_network, from_network, load_picture, save_picture, to_network
from inference.media.video import probe
from tests.synthetic_inputs import picture

DATA = Path(__file__).parent / "data"


@pytest.fixture
def rgba():
    return np.random.default_rng(0).integers(0, 256, (33, 47, 4), np.uint8)


# ---- reading


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".bmp"])
def test_pictures_are_read_as_stored(tmp_path, rgba, suffix):
    Image.fromarray(rgba[..., :3]).save(tmp_path / f"p{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    loaded = load_picture(tmp_path / f"p{suffix}")
    assert np.array_equal(loaded.rgb, rgba[..., :3])
    assert loaded.rgb.dtype == np.uint8
    assert loaded.alpha is None


def test_alpha_is_separate_and_straight(tmp_path, rgba):
    Image.fromarray(rgba).save(tmp_path / "p.png")
    loaded = load_picture(tmp_path / "p.png")
    assert np.array_equal(loaded.rgb, rgba[..., :3])
    assert np.array_equal(loaded.alpha, rgba[..., 3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, rgba, orientation):
    image = Image.fromarray(rgba[..., :3])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "p.png", exif=exif)
    turned = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    mirrored = rgba[:, ::-1, :3] if orientation in (2, 4, 5, 7) else rgba[..., :3]
    assert np.array_equal(load_picture(tmp_path / "p.png").rgb, np.rot90(mirrored, turned))


def test_grey_palette_and_cmyk_become_rgb(tmp_path, rgba):
    grey = rgba[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(load_picture(tmp_path / "grey.png").rgb, np.repeat(grey[..., None], 3, 2))

    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png", transparency=int(grey[0, 0]))
    palette = load_picture(tmp_path / "palette.png")
    assert np.array_equal(palette.rgb[..., 1], grey)
    assert palette.alpha[0, 0] == 0
    assert palette.alpha.max() == 255

    Image.new("CMYK", (16, 16), (255, 0, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    assert np.allclose(load_picture(tmp_path / "print.jpg").rgb, (0, 255, 0), atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path, suffix):
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / f"p{suffix}")
    assert np.array_equal(load_picture(tmp_path / f"p{suffix}").rgb[..., 0].ravel(), np.arange(256))


def test_sixteen_bit_colour_is_scaled(tmp_path):
    deep = np.repeat(np.arange(256, dtype=np.uint16).reshape(16, 16, 1) * 257, 3, 2)
    (tmp_path / "p.png").write_bytes(_png(16, 16, bytes(deep.astype(">u2").tobytes()), depth=16))
    assert np.array_equal(load_picture(tmp_path / "p.png").rgb, deep // 257)


def test_first_frame_of_an_animation_is_read(tmp_path):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    first.save(tmp_path / "p.gif", save_all=True, append_images=[second])
    assert (load_picture(tmp_path / "p.gif").rgb == (255, 0, 0)).all()


def _png(width, height, rows, depth=8):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    stride = len(rows) // height if rows else 0
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height if rows else 0))
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _bad_files(folder):
    good = folder / "good.jpg"
    Image.fromarray(picture("source_0")).save(good)
    yield folder / "missing.png", "does not exist"
    yield folder, "is a folder"
    for name, content, words in [
        ("empty.png", b"", "empty"),
        ("text.png", b"this is not a picture", "found a text file that begins 'this is not a picture'"),
        ("cut.jpg", good.read_bytes()[:3000], "damaged or incomplete"),
        ("broken.png", _png(64, 64, bytes(64 * 64 * 3))[:-20], "damaged or incomplete"),
        ("wide.png", _png(20000, 2, b""), "20000 x 2 pixels"),
        ("square.png", _png(13300, 13300, b""), "128 million pixels in all, found 13300 x 13300"),
        ("bomb.png", _png(16000, 16000, b""), "too many pixels"),
    ]:
        (folder / name).write_bytes(content)
        yield folder / name, words
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tiff")
    yield folder / "float.tiff", "32-bit"


def test_unreadable_files_are_explained(tmp_path):
    for path, words in _bad_files(tmp_path):
        with pytest.raises(EDTalkError, match=words) as caught:
            load_picture(path)
        assert caught.value.kind == "media"
        assert str(path) in caught.value.message
        assert caught.value.hint
        assert "expected" in caught.value.message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x76\x2f\x31\x01\x02\0\0\0", "an OpenEXR picture"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\0\0\0\0", "a Radiance HDR picture"),
        (b"#?RGBE\n\n-Y 1 +X 1\n\0\0\0\0", "a Radiance HDR picture"),
    ],
)
@pytest.mark.parametrize("name", ["p.exr", "p.png"])
def test_pictures_of_linear_light_are_refused_with_the_next_step(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EDTalkError, match=f"cannot be used: expected a picture such as PNG.*found {found}") as caught:
        load_picture(tmp_path / name)
    assert "Save As Render" in caught.value.hint


@pytest.mark.parametrize(("shape", "found"), [((4, 4), "32-bit pixels"), ((4, 4, 3), "a TIFF of another kind")])
def test_float_tiff_is_refused_with_the_next_step(tmp_path, shape, found):
    assert cv2.imwrite(str(tmp_path / "p.tif"), np.ones(shape, np.float32))
    with pytest.raises(EDTalkError, match=f"found {found}") as caught:
        load_picture(tmp_path / "p.tif")
    assert "Save As Render" in caught.value.hint


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran.txt)(w) file closefile\n"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("portrait.png", POSTSCRIPT),
        ("portrait.jpg", POSTSCRIPT),
        ("portrait.eps", POSTSCRIPT),
        # Header of a DOS EPS file: offsets and lengths of the PostScript and of a preview TIFF.
        ("dos.tif", b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(POSTSCRIPT), 0, 0, 0, 0) + b"\0\0" + POSTSCRIPT),
        ("tiff.tif", b"II*\0" + struct.pack("<I", 8) + POSTSCRIPT),
        ("polyglot.png", b"\x89PNG\r\n\x1a\n" + POSTSCRIPT),
        ("polyglot.jpg", b"\xff\xd8\xff\xfe" + struct.pack(">H", 2 + len(POSTSCRIPT)) + POSTSCRIPT),
        ("page.png", PDF),
        ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        ("drawing.jpg", b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'ran.txt'\npop graphic-context\n"),
        ("meta.bmp", b"\xd7\xcd\xc6\x9a\0\0" + bytes(16) + b"\1\0\t\0"),
        ("compound.tga", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
    ],
)
def test_formats_that_other_programs_interpret_are_refused(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EDTalkError, match="expected a picture") as caught:
        load_picture(tmp_path / name)
    assert caught.value.kind == "media"
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("suffix", [".tga", ".jp2", ".gif", ".avif", ".ppm", ".pgm", ".mpo"])
def test_other_picture_formats_are_read(tmp_path, suffix):
    image = Image.fromarray(picture("source_0"))
    several = {"save_all": True, "append_images": [image]} if suffix == ".mpo" else {}
    (image.convert("L") if suffix == ".pgm" else image).save(tmp_path / f"p{suffix}", **several)
    assert load_picture(tmp_path / f"p{suffix}").rgb.shape == picture("source_0").shape


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need POSIX")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zeros.png"):
        with pytest.raises(EDTalkError, match="not a regular file"):
            load_picture(tmp_path / name)


def test_transparent_pictures_are_shown_over_mid_grey(tmp_path):
    alpha = np.array([[0, 128, 255]], np.uint8)
    rgba = np.dstack([np.full((1, 3, 3), (0, 255, 0), np.uint8), alpha])
    Image.fromarray(rgba).save(tmp_path / "p.png")
    loaded = load_picture(tmp_path / "p.png")
    assert loaded.opaque.tolist() == [[[128, 128, 128], [64, 192, 64], [0, 255, 0]]]
    Image.fromarray(rgba[..., :3]).save(tmp_path / "p.png")
    assert np.array_equal(load_picture(tmp_path / "p.png").opaque, rgba[..., :3])


# ---- writing


def test_png_round_trip_leaves_no_other_file(tmp_path, rgba):
    save_picture(tmp_path / "p.png", rgba)
    save_picture(tmp_path / "p.png", rgba[..., :3])  # replaces the existing file
    assert np.array_equal(load_picture(tmp_path / "p.png").rgb, rgba[..., :3])
    assert [file.name for file in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("channels", [3, 4])
def test_exr_is_half_float_linear_and_premultiplied(tmp_path, rgba, channels):
    save_picture(tmp_path / "p.exr", rgba[..., :channels])
    with av.open(str(tmp_path / "p.exr")) as file:
        frame = next(file.decode(video=0))
    assert frame.format.name == ("gbrpf16le" if channels == 3 else "gbrapf16le")
    planes = [np.frombuffer(p, np.float16).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    stored = np.stack([planes[i] for i in (2, 0, 1, 3)[:channels]], axis=-1).astype(np.float64)
    srgb = rgba[..., :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if channels == 4:
        alpha = rgba[..., 3:] / 255
        linear = np.concatenate([linear * alpha, alpha], axis=-1)
    np.testing.assert_allclose(stored, linear, atol=2**-11, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["p.exr"]


@pytest.mark.parametrize("name", ["p.png", "p.exr"])
def test_opaque_frames_are_read_back_exactly(tmp_path, rgba, name):
    save_picture(tmp_path / name, rgba[..., :3])
    assert np.array_equal(read_frame(tmp_path / name), rgba[..., :3])


@pytest.mark.parametrize("name", ["p.png", "p.exr"])
def test_full_disk_keeps_the_old_file(tmp_path, rgba, name):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    save_picture(tmp_path / name, rgba[:4, :4])
    before = (tmp_path / name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # makes writing fail as on a full disk
    try:
        with pytest.raises(EDTalkError, match="could not be written") as caught:
            save_picture(tmp_path / name, rgba)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.kind == "disk"
    assert "space" in caught.value.hint
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_missing_folder_and_wrong_suffix(tmp_path, rgba):
    with pytest.raises(EDTalkError) as caught:
        save_picture(tmp_path / "no" / "p.png", rgba)
    assert caught.value.kind == "disk"
    with pytest.raises(EDTalkError, match=r"\.jpg"):
        save_picture(tmp_path / "p.jpg", rgba)


# ---- to and from the network


@pytest.mark.parametrize(("name", "height", "width"), [("big", 300, 420), ("small", 180, 150)])
def test_resizes_match_upstream(name, height, width):
    source = picture(f"resize_{name}", height, width)
    with np.load(DATA / "resize.npz") as golden:  # every 8th pixel
        levels = (to_network(source).transpose(1, 2, 0)[::8, ::8] / 2 + 0.5) * 255
        assert np.array_equal(np.rint(levels), golden[f"{name}/pil_resize_256"])
        driver = frames_to_network(source[None])
        assert driver.shape == (1, 3, 256, 256)
        np.testing.assert_allclose(driver[0, :, ::8, ::8], golden[f"{name}/video_resize_256"], atol=2e-6)


def test_driver_of_the_network_size_is_unchanged():
    frames = np.stack([picture("pose_0"), picture("pose_1")])
    assert np.array_equal(from_network(frames_to_network(frames)), frames)
    assert np.array_equal(from_network(to_network(frames[0])), frames[0])


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_output_is_clamped_and_rounded_but_not_normalised(name):
    with np.load(DATA / "video.npz") as golden:
        planes = golden[f"{name}/clip"][0].transpose(1, 0, 2, 3)
        assert np.array_equal(from_network(planes), golden[f"{name}/uint8_plain_clamp_round"])
        assert np.array_equal(from_network(planes[1]), golden[f"{name}/uint8_plain_clamp_round"][1])


@pytest.mark.parametrize("name", ["photo.heic", "photo.png", "photo.jpg"])
def test_a_photograph_in_heic_is_refused_by_name(tmp_path, name):
    """Phones take them, and programs give them other suffixes. FFmpeg would read one tile of it as a movie."""
    path = tmp_path / name
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100))
    with pytest.raises(EDTalkError, match="found a HEIC photograph") as caught:
        load_picture(path)
    assert "Export it as JPEG or PNG" in caught.value.hint
    with pytest.raises(EDTalkError, match="cannot be read"):
        probe(path)
