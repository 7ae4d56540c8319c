"""Tests of real sound files: tags in other encodings, many channels, presentation times, damage, several streams."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from inference import lipsync
from inference.contract.downmix import to_mono
from inference.contract.errors import EDTalkError
from inference.media.sound import SoundFile, in_time, load_sound, load_speech, read_sound, to_16k
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


# ---- channels


def heard(path):
    """The mono sound of a file, and of the clip that is written with it."""
    out = path.with_name("heard.mp4")
    with VideoWriter(out, 25, (64, 48), sound=path) as writer:
        for _ in range(50):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    return load_sound(path)[0], load_sound(out)[0]


@pytest.mark.parametrize(
    ("name", "codec", "channels"),
    [
        ("line.wav", "pcm_s16le", 7),
        ("line.wav", "pcm_s16le", 8),
        ("line.wav", "pcm_s16le", 12),
        ("line.flac", "flac", 8),
        ("line.m4a", "aac", 8),
        ("line.mov", "pcm_s16le", 8),
        ("line.caf", "pcm_s16le", 8),
    ],
)
def test_many_channels(tmp_path, name, codec, channels):
    """As a 7.1 mix or the file of a field recorder. All channels contain the same here."""
    samples = np.repeat(sine()[:, None], channels, axis=1)
    mono, clip = (
        np.sqrt(np.mean(sound[RATE // 4 : RATE // 2] ** 2))
        for sound in heard(write_tracks(tmp_path / name, [(codec, [(0.0, samples)])]))
    )
    assert mono == pytest.approx(0.5 / np.sqrt(2), rel=0.15)  # AAC keeps only the lowest part of the eighth channel
    assert clip > 0.2  # the weights of a stereo mix are FFmpeg's


# ---- presentation times


def beep(sound):
    """Seconds at which the sound begins."""
    return float(np.flatnonzero(np.abs(sound) > 0.1)[0]) / RATE


@pytest.mark.parametrize(
    ("suffix", "codec", "picture", "pieces", "expected"),
    [
        ("mp4", "aac", (0, 2), [(0.0, 0.5)], 0.5),
        ("mp4", "aac", (0, 2), [(0.6, 0.5)], 1.1),  # the sound begins late
        ("mkv", "pcm_s16le", (0, 2), [(0.6, 0.5)], 1.1),
        ("mkv", "aac", (0.4, 2), [(0.0, 0.5)], 0.1),  # the picture begins late
        ("mp4", "aac", (0.4, 2), [(0.0, 0.5)], 0.1),
        ("mkv", "pcm_s16le", (0, 2), [(0.0, 0.2), (1.2, 0.3)], 1.5),  # a gap of one second
    ],
)
def test_sound_keeps_its_distance_from_the_picture(tmp_path, suffix, codec, picture, pieces, expected):
    """As in recordings of phones and OBS, and in cuts without encoding. pieces: begin and length of silence."""
    silences = [(begin, np.zeros(round(length * RATE), np.float32)) for begin, length in pieces]
    begin, silence = silences[-1]
    silences[-1] = begin, np.concatenate([silence, sine(0.3)])
    path = write_tracks(tmp_path / f"shot.{suffix}", [(codec, silences)], picture=picture)
    for sound in heard(path):
        assert beep(sound) == pytest.approx(expected, abs=0.025)  # AAC smears by up to a frame of 21 ms


def test_part_of_a_sound_begins_at_its_start(tmp_path):
    samples = np.concatenate([np.zeros((RATE, 2), np.float32), np.repeat(sine()[:, None], 2, axis=1)])
    path = write_tracks(tmp_path / "line.wav", [("pcm_s16le", [(0.0, samples)])])
    out = tmp_path / "part.mp4"
    with VideoWriter(out, 25, (64, 48), sound=SoundFile(path, start=0.6)) as writer:
        for _ in range(25):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert beep(load_sound(out)[0]) == pytest.approx(0.4, abs=0.025)
    with av.open(str(out)) as file:
        assert file.streams.audio[0].codec_context.channels == 2


def test_timestamps_that_jump_are_not_followed():
    """Where recordings were joined, or where a damaged timestamp would ask for days of silence."""
    block = sine(0.5)[:, None]
    times = [10.0, 10.5, 0.0, 0.5, 1e9, None]
    placed = [samples for samples, _ in in_time(((time, block, RATE) for time in times), start=10.0)]
    np.testing.assert_array_equal(np.concatenate(placed), np.concatenate([block] * len(times)))


# ---- damage


def damaged(path, kind):
    """A sound of 4 s of which a part is damaged."""
    codec = {".mp3": "libmp3lame", ".aac": "aac", ".flac": "flac", ".wav": "pcm_s16le"}[path.suffix]
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 4 * RATE).astype(np.float32)
    stored = bytearray(write_tracks(path, [(codec, [(0.0, noise)])]).read_bytes())
    middle = len(stored) // 2
    if kind == "middle":
        stored[middle : middle + 200] = bytes([0x55]) * 200
    elif kind == "end":
        stored += b"not a sound at all, but something else\xff\xfb\x90\x00" * 40
    elif kind == "cut off":
        del stored[middle:]
    elif kind == "joined":
        both = np.stack([noise, noise], axis=1)
        stored += write_tracks(path, [(codec, [(0.0, both)])]).read_bytes()
    path.write_bytes(stored)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "seconds"),
    [
        ("a.mp3", "middle", 4),
        ("a.mp3", "end", 4),
        ("a.mp3", "cut off", 2),
        ("a.mp3", "joined", 8),
        ("a.aac", "middle", 4),
        ("a.aac", "end", 4),
        ("a.aac", "joined", 8),
        ("a.flac", "middle", 4),
        ("a.flac", "cut off", 2),
        ("a.wav", "cut off", 2),
    ],
)
def test_readable_part_of_a_damaged_sound_is_used(tmp_path, caplog, name, kind, seconds):
    path = damaged(tmp_path / name, kind)
    samples, rate = load_sound(path)
    assert len(samples) / rate == pytest.approx(seconds, abs=0.3)
    if kind in ("cut off", "middle") and (name, kind) != ("a.flac", "middle"):  # its decoder may conceal damage
        assert "is damaged or truncated" in caplog.text
        assert str(path) in caplog.text
    out = tmp_path / "whole.mp4"
    with VideoWriter(out, 25, (64, 48), sound=path) as writer:
        for _ in range(25 * seconds + 10):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert probe(out).frames == 25 * seconds + 10
    level = np.abs(load_sound(out)[0][: RATE * (seconds - 1)].reshape(-1, RATE // 4)).max(axis=1)
    assert level.min() > 0.1


def test_sound_of_unknown_length_is_not_taken_for_damaged(tmp_path, caplog):
    """Programs that write to a pipe state 2**31 bytes or so."""
    path = write_tracks(tmp_path / "a.wav", [("pcm_s16le", [(0.0, sine())])])
    stored = path.read_bytes()
    at = stored.index(b"data") + 4
    for size in (0, 2**31 - 1, 2**32 - 1, 2_000_000_000):
        path.write_bytes(stored[:at] + size.to_bytes(4, "little") + stored[at + 4 :])
        assert len(load_sound(path)[0]) == RATE
    assert not caplog.text


def test_impossible_rates_are_refused(tmp_path):
    path = write_tracks(tmp_path / "a.wav", [("pcm_s16le", [(0.0, sine())])])
    stored = path.read_bytes()
    path.write_bytes(stored[:24] + (1).to_bytes(4, "little") + stored[28:])
    with pytest.raises(EDTalkError, match="1 samples per second") as caught:
        load_sound(path)
    assert caught.value.kind == "media"


def test_a_sound_that_lasts_longer_than_any_line_is_refused(tmp_path, monkeypatch):
    """A small file can claim a low rate, or contain hours of compressed silence."""
    monkeypatch.setattr("inference.media.sound._LONGEST", 3600)
    path = tmp_path / "slow.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(1000)
        file.writeframes(bytes([128]) * 3_700_000)
    for read in (load_sound, load_speech, lambda path: list(read_sound(SoundFile(path), for_clip=True))):
        with pytest.raises(EDTalkError, match="more than 1 hours of sound at 1000 samples per second") as caught:
            read(path)
        assert caught.value.kind == "media"


# ---- mono


@pytest.mark.parametrize("right", [-1.0, -0.8])
@pytest.mark.parametrize("name", ["line.wav", "line.flac", "line.m4a"])
def test_inverted_channel_does_not_silence_the_other(tmp_path, name, right):
    """As from a balanced line in a stereo socket. The mouth moves as for the left channel alone."""
    codec = {"wav": "pcm_s16le", "flac": "flac", "m4a": "aac"}[name.split(".")[1]]
    samples = np.stack([sine(), right * sine()], axis=1)
    mono, _ = load_sound(write_tracks(tmp_path / name, [(codec, [(0.0, samples)])]))
    np.testing.assert_allclose(mono[RATE // 4 : RATE // 2], sine()[RATE // 4 : RATE // 2], atol=0.06)


def test_channels_that_do_not_cancel_are_averaged():
    rng = np.random.default_rng(0)
    for samples in (
        rng.standard_normal((1000, 2)),  # unrelated
        np.stack([sine(0.1), np.zeros(RATE // 10)], axis=1),  # one channel only
        np.stack([sine(0.1), 0.5 * sine(0.1)], axis=1),
        np.zeros((1000, 6)),
        np.zeros((0, 2)),
    ):
        samples = samples.astype(np.float32)
        np.testing.assert_allclose(to_mono(samples), samples.mean(axis=1), atol=1e-6)


# ---- several audio streams


def test_audio_stream_is_the_default_one_or_the_chosen_one(tmp_path):
    """As in recordings with the sound of the desktop and of the microphone."""
    tracks = [("aac", [(0.0, 0 * sine())]), ("aac", [(0.0, sine())]), ("aac", [(0.0, sine(level=0.2))])]
    for default, level in ((1, 0.5), (2, 0.2)):
        path = write_tracks(tmp_path / "shot.mp4", tracks, picture=(0, 1), default=default)
        for sound in heard(path):
            assert np.abs(sound[RATE // 4 : RATE // 2]).max() == pytest.approx(level, abs=0.06)
    assert np.abs(load_sound(path, 1)[0]).max() == 0
    assert np.abs(load_sound(path, 2)[0][RATE // 4 : RATE // 2]).max() == pytest.approx(0.5, abs=0.06)
    with pytest.raises(EDTalkError, match="has no audio stream 4; it has 3") as caught:
        load_sound(path, 4)
    assert (caught.value.kind, caught.value.hint) == ("media", "Choose an audio stream from 1 to 3.")


def test_first_audio_stream_is_used_without_a_default_one(tmp_path):
    tracks = [("aac", [(0.0, sine())]), ("aac", [(0.0, 0 * sine())])]
    path = write_tracks(tmp_path / "shot.mkv", tracks, default=-1)
    assert np.abs(load_sound(path)[0]).max() > 0.4


# ---- long sounds


def test_speech_is_the_sound_at_16_khz(tmp_path):
    path = write_tracks(tmp_path / "line.wav", [("pcm_s16le", [(0.0, sine(1.2))])])
    samples, seconds = load_speech(path)
    np.testing.assert_allclose(samples, to_16k(*load_sound(path)), atol=1e-6)
    assert seconds == 1.2


@pytest.mark.parametrize("length", [640, 16_000, 60_000, 64_000])
def test_mel_does_not_depend_on_the_chunks(monkeypatch, length):
    """Chunks of a long sound are transformed one after the other, so that memory stays small."""
    samples = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    whole = lipsync.mel_spectrogram(samples)
    for chunk in (1, 7, 80):
        monkeypatch.setattr(lipsync, "_MEL_CHUNK", chunk)
        np.testing.assert_allclose(lipsync.mel_spectrogram(samples), whole, atol=1e-4)


def without_decoder(path, numbers):
    """Give some sound streams of a MOV the format of Apple's spatial sound, which FFmpeg cannot decode."""
    content, at = bytearray(path.read_bytes()), []
    begin = content.find(b"stsd")
    while begin >= 0:
        sample = content.find(b"mp4a", begin, begin + 40)
        at += [sample] if sample >= 0 else []
        begin = content.find(b"stsd", begin + 4)
    for number in numbers:
        content[at[number] : at[number] + 4] = b"apac"
        codec = content.find(b"esds", at[number])
        content[codec : codec + 4] = b"free"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("unknown", [[1], [0], [0, 1]])
def test_spatial_sound_of_a_phone_is_passed_over(tmp_path, unknown):
    tracks = [("aac", [(0.0, sine(1.0))]), ("aac", [(0.0, sine(1.0))])]
    path = without_decoder(write_tracks(tmp_path / "phone.mov", tracks), unknown)
    with av.open(str(path)) as file:
        assert [stream.codec_context is None for stream in file.streams.audio] == [n in unknown for n in (0, 1)]
    if len(unknown) == 1:
        assert np.abs(load_sound(path)[0]).max() > 0.2
    for stream in unknown if len(unknown) == 1 else [*unknown, None]:
        with pytest.raises(EDTalkError, match="cannot be decoded"):
            load_sound(path, None if stream is None else stream + 1)
