"""Tests of reading and writing clips: speed, length, sound, colours, damaged files, full disks, interruption."""

import contextlib
import itertools
import logging
import os
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from inference.contract.errors import EDTalkError
from inference.media import picture, video, video_writer
from inference.media.frames import encode_pictures
from inference.media.picture import save_picture
from inference.media.sound import load_sound
from inference.media.video import ClipInfo, open_driver, parse_fps, probe, read_frames
from inference.media.video_writer import FrameFolder, VideoWriter

MEDIA = Path(__file__).parents[2].parent / "shared" / "media"
FILM = Fraction(24000, 1001)


def numbered(index, height=48, width=64):
    """A frame whose grey level encodes its number, in steps that survive compression."""
    return np.full((height, width, 3), 20 + index * 5 % 220, np.uint8)


def number(frame):
    """The number that `numbered` encoded."""
    return round((float(frame.mean()) - 20) / 5)


def interrupted(writer, frames, stop):
    """Write a number of frames, then raise `stop` in the block."""
    with writer:
        for i in range(frames):
            writer.write(numbered(i))
        raise stop


def make_clip(path, times, *, fps=30, rotation=0, pix_fmt="yuv420p", frames=None, codec="libx264", gop=12):
    """Write a clip whose frame i starts at times[i] seconds."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = Fraction(1, 30000)
        stream.codec_context.gop_size = gop
        stream.codec_context.color_range = 2 if pix_fmt == "gray" else 1  # grey is full range
        if codec == "libx264":
            stream.options = {"crf": "1" if "10" in pix_fmt else "5"}
        if rotation:
            stream.set_display_rotation(rotation)
        for i, time in enumerate(times):
            pixels = numbered(i) if frames is None else frames[i]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.color_range = stream.codec_context.color_range
            frame.pts, frame.time_base = round(time * 30000), Fraction(1, 30000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def tone(seconds, rate=16000):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32), rate


def lengths(path):
    """Seconds of decoded video and audio of a file."""
    with av.open(str(path)) as file:
        pictures = sum(1 for _ in file.decode(video=0))
        rate = file.streams.video[0].average_rate
    with av.open(str(path)) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0)) if file.streams.audio else 0
        return pictures / rate, samples / file.streams.audio[0].rate if file.streams.audio else 0


# ---- frame rates


@pytest.mark.parametrize(
    ("value", "fps"),
    [
        (25, Fraction(25)),
        ("25", Fraction(25)),
        (23.976, FILM),
        ("23.98", FILM),
        ("24000/1001", FILM),
        (29.97, Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(50), Fraction(50)),
    ],
)
def test_frame_rates_become_exact_fractions(value, fps):
    assert parse_fps(value) == fps


@pytest.mark.parametrize("value", [0, -25, "fast", "1/0", float("nan"), float("inf"), 1e9])
def test_invalid_frame_rates_are_refused(value):
    with pytest.raises(EDTalkError, match="frame rate"):
        parse_fps(value)


# ---- reading


def test_probe_and_read_a_clip(tmp_path):
    path = make_clip(tmp_path / "c.mp4", np.arange(12) / 30)
    info = probe(path)
    assert info == ClipInfo(64, 48, Fraction(30), 12, pytest.approx(0.4, abs=0.01), 0, False)
    frames = list(read_frames(path))
    assert [number(frame) for frame in frames] == list(range(12))
    assert frames[0].shape == (48, 64, 3)
    assert frames[0].dtype == np.uint8


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [25, 30, "23.976", 50, 7])
def test_resampling_keeps_the_speed(tmp_path, fps, suffix):
    path = make_clip(tmp_path / f"c{suffix}", np.arange(33) / 30)
    rate = parse_fps(fps)
    shown = [number(frame) for frame in read_frames(path, fps)]
    assert len(shown) == round(33 / 30 * rate)
    assert shown == [min(int(i / rate * 30 + 1e-9), 32) for i in range(len(shown))]


def test_variable_frame_rate_is_resampled_by_time(tmp_path):
    path = make_clip(tmp_path / "c.mp4", [0.0, 0.1, 0.5, 0.54, 0.9])
    shown = [number(frame) for frame in read_frames(path, 25)]
    assert shown[:23] == [0] * 3 + [1] * 10 + [2] + [3] * 9
    assert set(shown[23:]) == {4}


def test_recordings_that_were_joined_are_read_to_the_end(tmp_path, caplog):
    """`cat one.ts two.ts`: the timestamps start again at the join."""
    first = make_clip(tmp_path / "a.ts", np.arange(40) / 30)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + make_clip(tmp_path / "b.ts", np.arange(42) / 30).read_bytes())
    assert [number(frame) for frame in read_frames(path, 30)] == [*range(40), *range(42)]
    assert [round(at * 30) for at, _ in video.stamped_frames(path)] == list(range(82))
    assert not caplog.records


@pytest.mark.parametrize("late", [1e6, 5000.0])
def test_a_timestamp_that_claims_a_long_gap_is_not_followed(tmp_path, late):
    path = make_clip(tmp_path / "c.mkv", [0.0, 1 / 30, late, late + 1 / 30])
    assert [number(frame) for frame in read_frames(path, 30)] == [0, 1, 2, 3]


def test_a_clip_that_claims_days_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_LONGEST", 3600)
    path = make_clip(tmp_path / "c.mkv", np.arange(4) * 1700.0)
    assert len(list(itertools.islice(read_frames(path, 25), 1000))) == 1000, "frames are not gathered"
    with pytest.raises(EDTalkError, match="claims to be longer"):
        list(read_frames(path, 1))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize(("start", "end"), [(0, 0.5), (0.5, 1.2), (2.9, 3.3), (3.7, None), (2.55, 2.56)])
def test_part_equals_the_same_frames_of_the_whole(tmp_path, suffix, start, end):
    path = make_clip(tmp_path / f"c{suffix}", np.arange(120) / 30)
    whole = [number(frame) for frame in read_frames(path, 60)]
    part = [number(frame) for frame in read_frames(path, 60, start=start, end=end)]
    assert part == whole[round(start * 60) : None if end is None else max(round(end * 60), round(start * 60) + 1)]


def test_late_part_is_read_from_the_key_frame_before(tmp_path):
    path = make_clip(tmp_path / "c.mp4", np.arange(40), fps=1, gop=10)
    part = video._Part(path, Fraction(25))
    assert next(part.frames).time == 20
    assert next(video._Part(path, Fraction(1)).frames).time == 0


def test_start_after_the_end(tmp_path):
    path = make_clip(tmp_path / "c.mp4", np.arange(12) / 30)
    for start in (0.45, 5.0):
        with pytest.raises(EDTalkError, match=r"ends at 0\.40 s") as caught:
            list(read_frames(path, 25, start=start))
        assert caught.value.kind == "media"


def test_clip_of_a_single_frame(tmp_path):
    path = make_clip(tmp_path / "c.mp4", [0.0])
    assert len(list(read_frames(path, 1))) == 1
    assert len(list(read_frames(path))) == 1


def test_interlaced_footage_has_no_combs(tmp_path):
    """As of camcorders and old cameras: every other line is a fiftieth of a second younger."""

    def square(left: int) -> np.ndarray:
        picture = np.full((96, 160, 3), 60, np.uint8)
        picture[24:72, left : left + 40] = 200
        picture[80:82] = 120  # a thin line that does not move
        return picture

    path = tmp_path / "interlaced.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"qp": "0", "x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "rgb24"
        for number in range(5):
            woven, after = square(20 + 16 * number), square(28 + 16 * number)
            woven[1::2] = after[1::2]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(woven, format="rgb24")))
        file.mux(stream.encode(None))
    for number, frame in enumerate(read_frames(path)):
        expected = square(20 + 16 * number)
        assert np.abs(frame[26:70].astype(int) - expected[26:70]).max() <= 2
        assert np.abs(frame[80:82].astype(int) - 120).max() <= 2, "detail that does not move is kept"
    progressive = make_clip(tmp_path / "c.mp4", [0, 1 / 30])
    assert next(read_frames(progressive)).std() < 2


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(tmp_path, rotation):
    corner = np.zeros((48, 64, 3), np.uint8)
    corner[:16, :16] = 255
    path = make_clip(tmp_path / "c.mp4", [0, 1 / 30], rotation=rotation, frames=[corner, corner])
    expected = np.rot90(corner, rotation // 90)
    frame = next(read_frames(path))
    assert frame.shape == expected.shape
    assert abs(frame.astype(int) - expected).mean() < 5
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.rotation == rotation % 360


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "gray", "yuv444p"])
def test_pixel_formats_become_rgb(tmp_path, pix_fmt):
    path = make_clip(tmp_path / "c.mp4", np.arange(4) / 30, pix_fmt=pix_fmt)
    assert [number(frame) for frame in read_frames(path)] == [0, 1, 2, 3]


def test_pictures_and_folders_as_drivers(tmp_path):
    for i in (10, 9, 2):
        Image.fromarray(numbered(i)).save(tmp_path / f"shot_{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    assert [number(frame) for frame in open_driver(tmp_path, 25)] == [2, 9, 10]
    assert [number(frame) for frame in open_driver(tmp_path / "shot_9.png", 25)] == [9]
    clip = make_clip(tmp_path / "c.mp4", np.arange(6) / 30)
    assert len(list(open_driver(clip, 15))) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(EDTalkError, match="contains no images"):
        open_driver(tmp_path / "none")


def test_unreadable_files_are_explained(tmp_path):
    good = make_clip(tmp_path / "good.mp4", np.arange(5) / 30).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video" * 50)
    (tmp_path / "unfinished.mp4").write_bytes(good[:-300])  # the index at the end is missing
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    for name, words in [
        ("missing.mp4", "does not exist"),
        ("", "is a folder"),
        ("empty.mp4", "empty"),
        ("text.mp4", "cannot be read"),
        ("unfinished.mp4", "cannot be read"),
        ("sound.wav", "only sound"),
    ]:
        for look in (probe, read_frames):
            with pytest.raises(EDTalkError, match=words) as caught:
                look(tmp_path / name)
            assert caught.value.kind == "media"
            assert str(tmp_path / name) in caught.value.message
            assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["list.mp4", "list.mov", "list.wav", "list.ffconcat", "list.m3u8", "list.mpd", "list.sdp"]
)
@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "sdp", "xml"])
def test_playlists_are_not_opened(tmp_path, monkeypatch, name, kind):
    """Whatever the suffix is. The file that the playlist names is readable."""
    with FrameFolder(tmp_path / "other", sound=tone(1)) as folder:
        folder.write(numbered(0))
    assert load_sound(tmp_path / "other" / "sound.wav")[1]
    monkeypatch.chdir(tmp_path)
    named = "other/sound.wav"
    (tmp_path / name).write_text({
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{named}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {named}\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
                f'profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static"><Period><AdaptationSet>'
                f'<Representation id="1"><BaseURL>{named}</BaseURL></Representation></AdaptationSet></Period></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "xml": f'<smil><body><audio src="{named}"/></body></smil>',
    }[kind])  # fmt: skip
    for read in (load_sound, probe, lambda path: VideoWriter(tmp_path / "o.mp4", 25, (64, 48), sound=path)):
        with pytest.raises(EDTalkError) as caught:
            read(tmp_path / name)
        assert caught.value.kind == "media"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these names")
@pytest.mark.parametrize("name", ["concat:other", "http:x.mp4", "data:x.mov", "take%03d.mkv", "a|b.mp4"])
def test_name_that_looks_like_a_url_is_a_file(tmp_path, monkeypatch, name):
    make_clip(tmp_path / "c.mp4", [0, 1 / 30, 2 / 30])
    (tmp_path / "c.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert [number(frame) for frame in read_frames(name)] == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need POSIX")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zeros.mp4").symlink_to("/dev/zero")
    for read in (load_sound, probe):
        for name in ("pipe.mp4", "zeros.mp4"):
            with pytest.raises(EDTalkError):
                read(tmp_path / name)


def test_truncated_clip_gives_its_readable_frames_and_a_warning(tmp_path, caplog):
    frames = list(np.random.default_rng(0).integers(90, 160, (60, 48, 64, 1), np.uint8).repeat(3, axis=3))
    path = tmp_path / "c.mp4"
    with VideoWriter(path, 30, (64, 48)) as writer:  # its index is at the start
        for frame in frames:
            writer.write(frame)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        read = list(read_frames(path, 30))
    assert 10 < len(read) < 50
    assert abs(read[5].astype(int) - frames[5]).mean() < 6
    assert "damaged or truncated" in caplog.text
    assert str(path) in caplog.text


# ---- writing


@pytest.mark.parametrize("fps", ["23.976", 25, 30])
@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_sound_is_as_long_as_the_video(tmp_path, fps, seconds):
    path, rate = tmp_path / "c.mp4", parse_fps(fps)
    with VideoWriter(path, fps, (64, 48), sound=tone(seconds)) as writer:
        for i in range(31):
            writer.write(numbered(i))
    info = probe(path)
    assert (info.frames, info.fps, info.has_audio) == (31, rate, True)
    assert [number(frame) for frame in read_frames(path)] == list(range(31))
    picture_seconds, sound_seconds = lengths(path)
    assert picture_seconds == 31 / rate
    assert abs(sound_seconds - picture_seconds) <= 1 / rate
    with av.open(str(path)) as file:
        for stream in file.streams:
            assert abs(float(stream.duration * stream.time_base) - 31 / rate) <= 1 / rate


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_from_samples_and_files_is_in_sync(tmp_path, channels):
    rate = 44100
    click = np.zeros((2 * rate, channels), np.float32)
    click[rate] = 0.9  # at one second
    with FrameFolder(tmp_path / "folder", sound=(click if channels == 2 else click[:, 0], rate)) as folder:
        folder.write(numbered(0))
    with wave.open(str(tmp_path / "folder" / "sound.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (channels, rate, 2 * rate)
        stored = np.frombuffer(file.readframes(2 * rate), "<i2").reshape(-1, channels)
        assert stored.argmax(axis=0).tolist() == [rate] * channels
    path = tmp_path / "c.mov"
    with VideoWriter(path, 25, (64, 48), sound=tmp_path / "folder" / "sound.wav") as writer:
        for i in range(40):
            writer.write(numbered(i))
    with av.open(str(path)) as file:
        heard, start = [], None
        for frame in file.decode(audio=0):
            start = frame.time if start is None else start
            heard.append(abs(frame.to_ndarray()).max(0))
    assert start + np.concatenate(heard).argmax() / 48000 == pytest.approx(1.0, abs=0.01)


def test_colours_are_kept_and_tagged(tmp_path):
    path = tmp_path / "c.mp4"
    colours = np.repeat(np.array([(200, 40, 90), (20, 180, 60), (30, 60, 220), (240, 240, 240)], np.uint8), 16, axis=0)
    frame = np.broadcast_to(colours[None], (48, 64, 3))
    with VideoWriter(path, 25, (64, 48)) as writer:
        for _ in range(3):
            writer.write(frame)
    read = next(read_frames(path)).astype(int)
    for x in (8, 24, 40, 56):
        assert abs(read[24, x] - frame[24, x]).max() <= 4
    with av.open(str(path)) as file:
        first = next(file.decode(video=0))
        assert (first.colorspace, first.color_range, first.color_primaries, first.color_trc) == (1, 1, 1, 1)
        assert first.format.name == "yuv420p"


@pytest.mark.parametrize(
    ("codec", "suffix", "name", "error"), [("prores", ".mov", "prores", 8), ("ffv1", ".mkv", "ffv1", 0)]
)
def test_codecs_for_editing(tmp_path, codec, suffix, name, error):
    frame = np.stack(np.broadcast_arrays(np.arange(64)[None] * 3, np.arange(48)[:, None] * 4, 90), 2).astype(np.uint8)
    with VideoWriter(tmp_path / f"c{suffix}", 25, (64, 48), codec=codec) as writer:
        writer.write(frame)
    with av.open(str(tmp_path / f"c{suffix}")) as file:
        assert file.streams.video[0].codec_context.name == name
        read = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert abs(read - frame).max() <= error
    with pytest.raises(EDTalkError, match=suffix):
        VideoWriter(tmp_path / "c.mp4", 25, (64, 48), codec=codec)


def test_pictures_are_encoded_in_order_and_scaled(tmp_path):
    levels = [40, 40, 200, 120]
    for level in set(levels):
        save_picture(tmp_path / f"{level}.png", np.full((32, 64, 3), level, np.uint8))
    seen = []
    paths = [tmp_path / f"{level}.png" for level in levels]
    encode_pictures(paths, tmp_path / "c.mp4", 24, width=128, progress=seen.append)
    frames = list(read_frames(tmp_path / "c.mp4"))
    assert [frame.shape for frame in frames] == [(64, 128, 3)] * 4
    np.testing.assert_allclose([frame.mean() for frame in frames], levels, atol=2)
    assert seen == [0, 1, 2, 3, 4]


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path):
    frame = np.repeat(np.add.outer(np.arange(47), 3 * np.arange(63)).astype(np.uint8)[..., None], 3, 2)
    with VideoWriter(tmp_path / "c.mp4", 25, (63, 47), crf=4) as writer:
        writer.write(frame)
    read = next(read_frames(tmp_path / "c.mp4")).astype(int)
    assert read.shape == (48, 64, 3)
    assert abs(read[:47, :63] - frame).max() < 6
    assert abs(read[:47, 63] - frame[:, 62]).max() < 6
    assert abs(read[47, :63] - frame[46]).max() < 6


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("frames", [0, 1, 60])
def test_error_keeps_the_existing_clip_and_leaves_no_file(tmp_path, suffix, frames, stop):
    path = tmp_path / f"c{suffix}"
    for before in (None, b"existing clip"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(stop):
            interrupted(VideoWriter(path, 25, (64, 48), sound=tone(9)), frames, stop)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_damaged_sound_keeps_the_existing_clip(tmp_path):
    def sound():
        yield from video_writer._split(*tone(1, 48000))
        raise EDTalkError("The sound is truncated.", kind="media")

    def write():
        with VideoWriter(path, 25, (64, 48), sound=tone(1)) as writer:
            writer._sound._blocks = sound()
            for i in range(60):
                writer.write(numbered(i))

    path = tmp_path / "c.mp4"
    path.write_bytes(b"existing clip")
    with pytest.raises(EDTalkError, match="is truncated"):
        write()
    assert path.read_bytes() == b"existing clip"
    assert [file.name for file in tmp_path.iterdir()] == ["c.mp4"]


def test_processes_that_write_one_clip_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "c.mp4"
    with VideoWriter(path, 25, (64, 48)) as one, VideoWriter(path, 25, (64, 48)) as other:
        for i in range(5):
            one.write(numbered(i))
            other.write(numbered(9 - i))
    assert [number(frame) for frame in read_frames(path)] == list(range(5)), "the last to end"
    assert list(tmp_path.iterdir()) == [path]


def test_name_of_the_partial_clip_cannot_be_predicted(tmp_path):
    names = set()
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), VideoWriter(tmp_path / "c.mp4", 25, (64, 48)):
            names |= {path.name for path in tmp_path.iterdir()}
            raise KeyboardInterrupt
    assert len(names) == 2


def test_partial_clips_of_killed_processes_are_removed(tmp_path):
    old, young = tmp_path / ".a.12345678.partial.mp4", tmp_path / ".b.12345678.partial.mp4"
    for path in (old, young):
        path.write_bytes(b"half a clip")
    os.utime(old, (time.time() - 2 * picture._STALE_AFTER,) * 2)
    with VideoWriter(tmp_path / "c.mp4", 25, (64, 48)) as writer:
        writer.write(numbered(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "c.mp4"]


def test_sound_is_cut_to_a_shorter_clip(tmp_path):
    with VideoWriter(tmp_path / "c.mp4", 25, (64, 48), sound=tone(9)) as writer:
        for i in range(7):
            writer.write(numbered(i))
    assert [number(frame) for frame in read_frames(tmp_path / "c.mp4")] == list(range(7))
    assert abs(lengths(tmp_path / "c.mp4")[1] - 7 / 25) <= 1 / 25


def test_clip_without_frames_leaves_no_file(tmp_path):
    with pytest.raises(EDTalkError, match="no frames"), VideoWriter(tmp_path / "c.mp4", 25, (64, 48)):
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupted(VideoWriter(tmp_path / "c.mp4", 25, (64, 48), sound=tone(1)), 0, KeyboardInterrupt)
    assert not list(tmp_path.iterdir())


def test_invalid_frames_suffixes_sounds_and_folders_are_refused(tmp_path):
    with VideoWriter(tmp_path / "c.mp4", 25, (64, 48)) as writer:
        writer.write(numbered(0))
        with pytest.raises(EDTalkError, match="needs uint8"):
            writer.write(numbered(0)[:40])
    with pytest.raises(EDTalkError, match=r"\.gif"):
        VideoWriter(tmp_path / "c.gif", 25, (64, 48))
    for sound, words in [(tmp_path / "none.wav", "does not exist"), (tmp_path / "c.mp4", "has no sound")]:
        with pytest.raises(EDTalkError, match=words) as caught:
            VideoWriter(tmp_path / "d.mp4", 25, (64, 48), sound=sound)
        assert caught.value.kind == "media"
    with pytest.raises(EDTalkError, match="could not be written") as caught:
        VideoWriter(tmp_path / "no" / "c.mp4", 25, (64, 48))
    assert caught.value.kind == "disk"
    assert [file.name for file in tmp_path.iterdir()] == ["c.mp4"]


@pytest.mark.parametrize("frames", [8, 60])
def test_full_disk_is_reported_and_leaves_no_file(tmp_path, frames):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    noise = np.random.default_rng(0).integers(0, 256, (8, 96, 128, 3), np.uint8)

    def fill():
        with VideoWriter(tmp_path / "c.mp4", 25, (128, 96)) as writer:
            for i in range(frames):
                writer.write(noise[i % 8])

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30000, limits[1]))  # makes writing fail as on a full disk
    try:
        with pytest.raises(EDTalkError, match="could not be written") as caught:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.kind == "disk"
    assert not list(tmp_path.iterdir())


def test_finished_frames_are_kept_after_an_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(FrameFolder(tmp_path / "a" / "b", "png", start=8), 3, KeyboardInterrupt)
    names = sorted(file.name for file in (tmp_path / "a" / "b").iterdir())
    assert names == ["frame_0008.png", "frame_0009.png", "frame_0010.png"]
    assert [number(frame) for frame in open_driver(tmp_path / "a" / "b")] == [0, 1, 2]
    with FrameFolder(tmp_path / "e", "exr") as folder:
        assert folder.write(np.dstack([numbered(0), numbered(0)[..., :1]])).name == "frame_0001.exr"
    with pytest.raises(EDTalkError, match="png or exr"):
        FrameFolder(tmp_path / "f", "jpg")
    (tmp_path / "file").touch()
    with pytest.raises(EDTalkError) as caught:
        FrameFolder(tmp_path / "file" / "b")
    assert caught.value.kind == "disk"


@pytest.mark.skipif(not MEDIA.is_dir(), reason="the test media are not available")
def test_real_clip_with_sound(tmp_path):
    info = probe(MEDIA / "mouth_source.mp4")
    assert (info.width, info.height, info.fps) == (256, 256, 25)
    assert info.duration == pytest.approx(10, abs=0.1)
    with VideoWriter(tmp_path / "c.mp4", 25, (256, 256), sound=MEDIA / "mouth_source.wav") as writer:
        for frame, _ in zip(read_frames(MEDIA / "mouth_source.mp4", 25), range(30), strict=False):
            writer.write(frame)
    assert abs(lengths(tmp_path / "c.mp4")[1] - 30 / 25) <= 1 / 25
