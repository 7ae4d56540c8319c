"""Tests of real sound files: tags in other encodings, many channels, presentation times, damage, several streams."""

from fractions import Fraction

import av
import numpy as np
import pytest

from inference.media.sound import load_sound
from inference.media.video import probe
from inference.media.video_writer import VideoWriter

RATE = 48_000
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 7: "6.1", 8: "7.1"}


def sine(seconds=1.0, level=0.5, rate=RATE):
    """A tone of 440 Hz, (n,) float32."""
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_tracks(path, tracks, *, picture=None, title="", default=None):
    """Write sounds, and a picture of 64x48 at 25 fps, by presentation time.

    tracks: for each audio stream its codec and pieces of (seconds, samples (n,) or (n, channels) at 48 kHz). picture:
    begin and end in seconds. default: number from 0 of the stream that players choose.
    """
    with av.open(str(path), "w") as file:
        if title:
            file.metadata["title"] = title
        if picture:
            video = file.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        streams = []
        for number, (codec, pieces) in enumerate(tracks):
            planes = pieces[0][1].reshape(len(pieces[0][1]), -1)
            layout = LAYOUTS.get(planes.shape[1], f"{planes.shape[1]} channels")
            stream = file.add_stream(codec, rate=RATE, layout=layout)
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else 0
            streams.append((stream, layout, pieces))
        if picture:
            for index in range(round(picture[0] * 25), round(picture[1] * 25)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        for stream, layout, pieces in streams:
            size = stream.codec_context.frame_size or 1024
            for begin, samples in pieces:
                for first in range(0, len(samples), size):
                    block = np.ascontiguousarray(samples[first : first + size], np.float32)
                    frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
                    frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                    frame.pts = round(begin * RATE) + first
                    file.mux(stream.encode(_as(frame, stream)))
            file.mux(stream.encode(None))
    return path


def _as(frame, stream):
    pts = frame.pts
    (converted,) = av.AudioResampler(stream.codec_context.format.name, frame.layout.name, RATE).resample(frame)
    converted.pts, converted.time_base = pts, Fraction(1, RATE)
    return converted


# ---- tags


@pytest.mark.parametrize("suffix", ["wav", "mp4", "avi", "mkv"])
def test_title_that_is_not_utf8(tmp_path, suffix):
    """As Latin-1 or Shift-JIS tags of older programs. FFmpeg and Blender read them."""
    path = tmp_path / f"line.{suffix}"
    codec = {"wav": "pcm_s16le", "avi": "pcm_s16le"}.get(suffix, "aac")
    write_tracks(path, [(codec, [(0.0, sine())])], picture=None if suffix == "wav" else (0, 1), title="TITLE_HERE")
    stored = path.read_bytes()
    assert b"TITLE_HERE" in stored
    path.write_bytes(stored.replace(b"TITLE_HERE", b"Gr\xfc\xdfe \x83\x65\xff!"))
    samples, rate = load_sound(path)
    assert len(samples) / rate == pytest.approx(1.0, abs=0.05)
    with VideoWriter(tmp_path / "out.mp4", 25, (64, 48), sound=path) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    if suffix != "wav":
        assert probe(path).width == 64
