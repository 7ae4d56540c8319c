"""Tests of the colours and the pixel aspect of clips: they are read as a player shows them, or refused."""

from fractions import Fraction

import av
import numpy as np
import pytest

from inference.contract.errors import EDTalkError
from inference.face.footage import track_media
from inference.media import colour
from inference.media.colour import check_colours, to_srgb
from inference.media.display import displayed
from inference.media.video import frames_at, open_driver, probe, read_frames, stamped_frames
from inference.media.video_writer import VideoWriter

PATCH = 32  # pixels of a side
# sRGB below the tone curve's knee: greys, skin, saturated colours of BT.709, near black.
COLOURS = np.array(
    [(128, 128, 128), (60, 60, 60), (225, 225, 225), (200, 150, 125), (90, 60, 45), (190, 30, 30), (30, 160, 40),
     (40, 50, 200), (220, 210, 60), (8, 8, 8)]
)  # fmt: skip
TO_2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919541, 0.011362], [0.016391, 0.088013, 0.895595]])
TO_P3 = np.array([[0.822462, 0.177538, 0.0], [0.033194, 0.966806, 0.0], [0.017083, 0.072397, 0.910520]])


def linear(srgb):
    signal = np.asarray(srgb) / 255
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def srgb(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def pq(light):
    power = (light * 203 / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light):
    scene = light * 0.265
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


def patches(colours):
    """float (PATCH, n * PATCH, 3) of flat patches."""
    return np.repeat(np.repeat(np.asarray(colours, float)[None], PATCH, 0), PATCH, 1)


def centres(rgb):
    return rgb[PATCH // 2, PATCH // 2 :: PATCH].astype(int)


def write(path, signal, *, primaries=1, transfer=1, matrix=1, full=False, aspect=None, bits=10, frames=3):
    """Write RGB signals (H, W, 3) in [0, 1] as YCbCr with the given numbers of ITU-T H.273."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    luma = signal @ (red, 1 - red - blue, blue)
    chroma = [(signal[..., 2] - luma) / (2 - 2 * blue), (signal[..., 0] - luma) / (2 - 2 * red)]
    unit, top = 2 ** (bits - 8), 2**bits - 1
    planes = [luma * top if full else (219 * luma + 16) * unit]
    planes += [c * top + 128 * unit if full else (224 * c + 128) * unit for c in chroma]
    number = np.uint16 if bits > 8 else np.uint8
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width = signal.shape[:2]
        stream.pix_fmt = "yuv444p10le" if bits == 10 else "yuv444p"
        codec = stream.codec_context
        codec.color_primaries, codec.color_trc, codec.colorspace = primaries, transfer, matrix
        codec.color_range = 2 if full else 1
        if aspect:
            codec.sample_aspect_ratio = aspect
        for index in range(frames):
            frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
            for plane, values in zip(frame.planes, planes, strict=True):
                lines = np.zeros((plane.height, plane.line_size // number().itemsize), number)
                lines[:, : plane.width] = np.rint(values).clip(0, top)
                plane.update(lines.tobytes())
            frame.color_range, frame.pts = codec.color_range, index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_hdr_is_shown_as_the_sdr_picture_it_was_made_from(tmp_path, curve, transfer):
    signal = curve(linear(patches(COLOURS)) @ TO_2020.T)
    path = write(tmp_path / "hdr.mp4", signal, primaries=9, transfer=transfer, matrix=9)
    for frame in (next(read_frames(path)), next(open_driver(path, 25)), next(frames_at(path, [0.0]))):
        assert np.abs(centres(frame) - COLOURS).max() <= 4


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_hdr_highlights_keep_their_order_and_hue(tmp_path, curve, transfer):
    """Up to the brightest light of HLG, 3.7 times reference white, nothing is clipped."""
    bright = np.array([0.7, 0.8, 1.0, 1.5, 3.7])
    tinted = bright[:, None] * (1, 0.8, 0.6)
    signal = curve(patches(np.repeat(bright[:, None], 3, 1)) @ TO_2020.T)
    greys = centres(next(read_frames(write(tmp_path / "g.mp4", signal, primaries=9, transfer=transfer, matrix=9))))
    assert (np.diff(greys[:, 0]) > 0).all()
    assert np.ptp(greys, axis=1).max() <= 2
    assert 235 <= greys[2, 0] <= 250  # reference white
    signal = curve(patches(tinted) @ TO_2020.T)
    found = centres(next(read_frames(write(tmp_path / "t.mp4", signal, primaries=9, transfer=transfer, matrix=9))))
    light = linear(found)
    assert np.allclose(light / light[:, :1], (1, 0.8, 0.6), atol=0.03)


@pytest.mark.parametrize(("primaries", "matrix", "to_wide"), [(9, 9, TO_2020), (12, 1, TO_P3)])
def test_wide_gamut_of_standard_range(tmp_path, primaries, matrix, to_wide):
    path = write(tmp_path / "wide.mp4", srgb(linear(patches(COLOURS)) @ to_wide.T), primaries=primaries, matrix=matrix)
    assert np.abs(centres(next(read_frames(path))) - COLOURS).max() <= 4


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_matrix_and_range(tmp_path, matrix, full, bits):
    path = write(tmp_path / "c.mp4", patches(COLOURS) / 255, matrix=matrix, full=full, bits=bits)
    assert np.abs(centres(next(read_frames(path))) - COLOURS).max() <= 4


def test_written_clips_carry_the_tags_of_their_colours(tmp_path):
    signal = pq(linear(patches(COLOURS)) @ TO_2020.T)
    shown = list(read_frames(write(tmp_path / "hdr.mp4", signal, primaries=9, transfer=16, matrix=9)))
    with VideoWriter(tmp_path / "out.mp4", 25, (shown[0].shape[1], PATCH)) as writer:
        for frame in shown:
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as file:
        first = next(file.decode(video=0))
    assert (first.color_primaries, first.color_trc, first.colorspace, first.color_range) == (1, 1, 1, 1)
    assert np.abs(centres(next(read_frames(tmp_path / "out.mp4"))) - COLOURS).max() <= 6


@pytest.mark.parametrize("matrix", [8, 10, 12, 13, 14])
def test_unknown_matrices_are_refused(matrix):
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace = matrix
    with pytest.raises(EDTalkError, match=r"clip\.mov cannot be used: expected colours of .*, found colour matrix"):
        check_colours(frame, "hvc1", "clip.mov")


def test_reserved_matrix_counts_as_untagged():
    frame = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), format="yuv420p")
    plain = to_srgb(frame, 64, 48)
    frame.colorspace = 3
    check_colours(frame, "avc1", "clip.mov")
    assert np.array_equal(to_srgb(frame, 64, 48), plain)


def test_dolby_vision_without_a_base_is_refused():
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    with pytest.raises(EDTalkError, match="found Dolby Vision without an HDR10 or HLG base"):
        check_colours(frame, "dvh1", "clip.mov")


@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(4, 3), 427), (Fraction(16, 15), 341), (Fraction(8, 9), 284), (Fraction(1000), 320)]
)
def test_pictures_have_square_pixels(tmp_path, aspect, width):
    """A circle that is stored squeezed is read as a circle. An absurd aspect is ignored, as players do."""
    y, x = np.mgrid[:240, :320]
    used = aspect if aspect < 4 else 1
    disc = (((x - 159.5) * float(used)) ** 2 + (y - 119.5) ** 2 < 90**2).astype(float)
    path = write(tmp_path / "sar.mp4", np.repeat(disc[..., None], 3, 2), aspect=aspect, bits=8)
    info = probe(path)
    assert (info.width, info.height) == (width, 240)
    read = (read_frames(path), read_frames(path, 25), frames_at(path, [0.0]), (rgb for _, rgb in stamped_frames(path)))
    for frames in read:
        seen = next(frames)[..., 0] > 127
        assert seen.shape == (240, width)
        assert abs(seen.any(0).sum() - 180) <= 2
        assert abs(seen.any(1).sum() - 180) <= 2


def test_face_is_tracked_where_it_is_shown(tmp_path):
    """A squeezed clip gives the crop of the clip with square pixels."""
    from PIL import Image

    from inference.contract.demo import PORTRAIT

    face = Image.open(PORTRAIT).convert("RGB").resize((240, 240))
    shown = Image.new("RGB", (480, 270), (128, 128, 128))
    shown.paste(face, (120, 15))
    square = write(tmp_path / "square.mp4", np.asarray(shown) / 255, bits=8)
    stored = np.asarray(shown.resize((360, 270))) / 255
    squeezed = write(tmp_path / "squeezed.mp4", stored, aspect=Fraction(4, 3), bits=8)
    expected, found = track_media(square), track_media(squeezed)
    assert found.size == expected.size == (480, 270)
    assert np.abs(found.track.crops - expected.track.crops).max() < 4


def test_written_clips_say_that_their_pixels_are_square(tmp_path):
    with VideoWriter(tmp_path / "c.mp4", 25, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    with av.open(str(tmp_path / "c.mp4")) as file:
        assert file.streams.video[0].sample_aspect_ratio == 1


# ---- as Blender shows HDR movies

# Signals of a grey and of skin, and the levels that Blender 5.0 and 4.5 showed for them in a movie strip, measured with
# the view transform Standard.
_SHOWN = {
    "pq": ([0.42643, 0.42643, 0.42643], [175, 175, 175], [0.53655, 0.49490, 0.45983], [255, 234, 199]),
    "hlg": ([0.41279, 0.41279, 0.41279], [153, 153, 153], [0.66308, 0.57916, 0.48920], [255, 222, 186]),
    "pq signal": ([0.42643, 0.42643, 0.42643], [109, 109, 109], [0.53655, 0.49490, 0.45983], [137, 126, 117]),
    "hlg signal": ([0.41279, 0.41279, 0.41279], [105, 105, 105], [0.66308, 0.57916, 0.48920], [169, 148, 125]),
}


@pytest.mark.parametrize("display", _SHOWN)
def test_frames_over_an_hdr_movie_have_the_colours_in_which_blender_shows_it(display):
    grey, shown_grey, skin, shown_skin = _SHOWN[display]
    signal = np.rint(np.array([[grey, skin]]) * 65535).astype(np.uint16)
    picture = colour._converted(signal, colour._PQ if display.startswith("pq") else colour._HLG, colour._BT2020)
    shown = displayed(picture, display)
    assert np.abs(shown[0].astype(int) - [shown_grey, shown_skin]).max() <= 2
    alpha = np.full((1, 2, 1), 77, np.uint8)
    assert np.array_equal(displayed(np.concatenate([picture, alpha], axis=2), display)[..., 3:], alpha)


@pytest.mark.parametrize("display", _SHOWN)
def test_colours_for_blender_keep_their_order(display):
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    shown = displayed(greys, display)[0, :, 0].astype(int)
    assert shown[0] == 0
    assert (np.diff(shown) >= 0).all()
    assert shown[255] > shown[128] > shown[64] > 0
