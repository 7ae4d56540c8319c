"""The `shot` commands: rendering in parts, encoding and numbering of frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from inference import drawing
from inference.cli import progress
from inference.contract.config import GeneratorConfig
from inference.contract.shot import Shot, frame_ranges
from inference.media import picture
from inference.media.frames import read_frame
from inference.media.picture import save_picture
from inference.media.sound import load_sound
from inference.media.video import read_frames
from tests.cli_material import BANKS, ROOT, SMALL, media_lengths, run, write_bank
from tests.farm.conftest import FIRST, FPS, pictures

FRAMES = 24


@pytest.fixture
def shot(make_shot) -> Path:
    return make_shot(FRAMES)


@pytest.fixture
def frames(tmp_path) -> Path:
    return tmp_path / "frames"


def render(shot: Path, *words: object) -> int:
    return run("shot", "render", shot, "--device", "cpu", "--threads", 1, *words)


@pytest.fixture
def direct(shot, tmp_path) -> dict[str, bytes]:
    """All frames, rendered in one run into a separate folder."""
    assert render(shot, "--frames-folder", tmp_path / "direct") == 0
    return pictures(tmp_path / "direct")


def error_output(capfd) -> str:
    return capfd.readouterr().err.strip().splitlines()[-1]


# ------------------------------------------------------------------------------------------------ render


def test_frames_do_not_depend_on_the_division(shot, frames, direct):
    assert len(direct) == FRAMES - FRAMES // 4
    numbers = list(range(FIRST, FIRST + FRAMES))
    random = np.random.default_rng(0)
    for _ in range(3):
        chosen = random.integers(0, 4, FRAMES)
        for task in range(4):
            chunk = [number for number, of in zip(numbers, chosen, strict=True) if of == task]
            assert render(shot, f"--frames={frame_ranges(chunk)}") == 0
        assert pictures(frames) == direct
        for path in frames.iterdir():
            path.unlink()


def test_several_shots_share_one_bank_and_fail_independently(make_shot, tmp_path, monkeypatch, capfd):
    made = []
    monkeypatch.setattr(drawing, "load_bank", lambda path, load=drawing.load_bank: made.append(path) or load(path))
    shots = [make_shot(count, f"shot{count}", frames_folder=tmp_path / f"frames{count}") for count in (3, 4, 5)]
    Image.new("RGB", (64, 64)).save(tmp_path / "nobody.png")
    shots.insert(1, make_shot(6, "bad", portrait=tmp_path / "nobody.png", crop="auto"))
    assert run("shot", "render", *shots, "--device", "cpu", "--threads", 1) == 2
    assert "No face was found in nobody.png" in error_output(capfd)
    assert len(made) == 1
    for count in (3, 4, 5):
        assert len(pictures(tmp_path / f"frames{count}")) == count - count // 4
    assert run("shot", "render", *shots[:1], *shots[2:], "--json") == 0
    done = json.loads(capfd.readouterr().out)
    assert (done["frames"], done["rendered"]) == (12, 0)
    assert run("shot", "render", *shots, "--frames", "101") == 2
    assert "--frames can be used with one shot only, found 4" in error_output(capfd)


def test_frame_numbers_are_those_of_the_scene(shot, frames, direct, capfd):
    names = Shot.read(shot).file_names()
    assert render(shot, "--frames", "103-105") == 0
    assert set(pictures(frames)) == set(names[2:5])
    assert render(shot, "--frames", FIRST + FRAMES - 1) == 0
    assert set(pictures(frames)) == {*names[2:5], names[-1]}
    capfd.readouterr()
    for requested in ("1-20", "100-101", "101-125", f"{FIRST + FRAMES}"):
        assert render(shot, "--frames", requested) == 2
        assert f"has frames 101 to 124, requested were {requested}." in error_output(capfd)
    for requested in ("", "x", "5-3", "1-2-3", "101,"):
        assert render(shot, f"--frames={requested}") == 2
        assert "expected scene frames" in error_output(capfd)


def test_negative_frame_numbers(make_shot, frames):
    shot = make_shot(8, first_frame=-4)
    assert render(shot, "--frames=-4--2") == 0
    assert set(pictures(frames)) == set(Shot.read(shot).file_names()[:3])


def test_existing_frames_are_kept_without_loading_anything(shot, frames, direct, monkeypatch, capfd):
    assert render(shot, "--frames", "101-110") == 0
    before = {path: path.stat().st_mtime_ns for path in frames.iterdir()}
    capfd.readouterr()
    assert render(shot, "--json") == 0
    done = json.loads(capfd.readouterr().out)
    assert (done["event"], done["frames"], done["rendered"]) == ("done", FRAMES, len(direct) - len(before))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    monkeypatch.setattr(drawing, "ShotRenderer", lambda *_: pytest.fail("loaded"))
    assert render(shot) == 0
    assert pictures(frames) == direct


def test_openjd_progress(shot, frames, capfd):
    assert render(shot, "--frames", "101-108", "--progress", "openjd") == 0
    lines = capfd.readouterr().out.splitlines()
    saved = [line.removeprefix("Saved: ") for line in lines if line.startswith("Saved: ")]
    assert {Path(line) for line in saved} == set(frames.iterdir())
    percent = [float(line.split()[1]) for line in lines if line.startswith("openjd_progress: ")]
    assert percent == sorted(percent)
    assert percent[-1] == 100.0
    assert len(saved) + len(percent) == len(lines)
    assert render(shot, "--frames", "101-108", "--progress", "openjd") == 0
    assert capfd.readouterr().out.splitlines() == ["openjd_progress: 100.0"]
    assert render(shot, "--frames", "1-8", "--progress", "openjd") == 2
    printed = capfd.readouterr()
    assert printed.out.startswith("openjd_fail: The shot has frames 101 to 124")
    assert printed.out.strip().removeprefix("openjd_fail: ") in printed.err


def test_sigterm_stops_after_the_frames_that_are_being_written(shot, frames, direct, monkeypatch):
    """Several threads write."""
    sent = []

    def save_and_signal(path, pixels):
        save_picture(path, pixels)
        if len(pictures(frames)) >= 5 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(drawing, "save_picture", save_and_signal)
    assert render(shot) == 128 + signal.SIGTERM
    assert 5 <= len(pictures(frames)) < len(direct)
    assert render(shot) == 0
    assert pictures(frames) == direct


@pytest.mark.slow
def test_two_processes_render_one_shot(shot, frames, direct):
    command = [sys.executable, ROOT / "inference", "shot", "render", shot, "--device", "cpu", "--threads", "1"]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=shot.parent) for _ in range(2)]
    assert [process.communicate(timeout=300) and process.returncode for process in running] == [0, 0]
    assert pictures(frames) == direct
    assert [path for path in frames.iterdir() if path.name[0] == "."] == []


def test_two_writers_of_one_file(tmp_path, monkeypatch):
    """The second starts and finishes while the first is writing its file."""
    path, pixels = tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)
    first = Image.Image.save

    def slow(self, partial, *rest, **options):
        monkeypatch.setattr(Image.Image, "save", first)
        Path(partial).write_bytes(b"half")
        save_picture(path, pixels)
        assert Image.open(path).size == (4, 4)
        self.save(partial, *rest, **options)

    monkeypatch.setattr(Image.Image, "save", slow)
    save_picture(path, pixels)
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]
    assert Image.open(path).size == (4, 4)


def test_old_partial_files_are_removed(shot, frames, monkeypatch):
    frames.mkdir()
    old, young, mine = frames / ".ab.12345678.partial.png", frames / ".cd.12345678.partial.png", frames / ".mine.png"
    for path in (old, young, mine):
        path.write_bytes(b"half a picture")
    os.utime(old, (time.time() - 2 * picture._STALE_AFTER,) * 2)
    os.utime(mine, (0, 0))
    assert render(shot, "--frames", "101") == 0
    assert (old.exists(), young.exists(), mine.exists()) == (False, True, True)


def test_partial_files_are_judged_by_the_clock_of_the_file_system(shot, frames, monkeypatch):
    frames.mkdir()
    young = frames / ".cd.12345678.partial.png"
    young.write_bytes(b"another machine writes this")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * picture._STALE_AFTER)
    assert render(shot, "--frames", "101") == 0
    assert young.exists()
    assert not list(frames.glob(".*.now"))


def test_frames_outside_the_folder_of_the_shot_need_an_option(shot, frames, tmp_path, capfd):
    elsewhere = tmp_path / "home" / "elsewhere"
    (tmp_path / "inbox").mkdir()
    moved = tmp_path / "inbox" / "stranger" / "shot"
    Shot.read(shot).write(moved)
    data = json.loads((moved / "shot.json").read_text())
    (moved / "link").symlink_to(elsewhere)
    for path in (str(elsewhere), "../../home/elsewhere", "link"):
        (moved / "shot.json").write_text(json.dumps(data | {"frames_folder": path}))
        assert run("shot", "render", moved, "--device", "cpu") == 2
        assert "--frames-folder" in error_output(capfd)
        assert not elsewhere.exists()
    assert render(moved, "--frames-folder", elsewhere, "--frames", "101") == 0
    assert len(pictures(elsewhere)) == 1


def test_shots_of_blender_write_into_the_folder_of_their_character(shot, tmp_path):
    character = tmp_path / "film_edtalk" / "Anna"
    replace(Shot.read(shot), frames_folder=character / "frames").write(character / "shots" / "3f2a")
    assert render(character / "shots" / "3f2a", "--frames", "101") == 0
    assert len(pictures(character / "frames")) == 1


@pytest.mark.parametrize("style", ["json", "openjd", "lines", "bar"])
def test_a_pipe_that_nobody_reads_does_not_stop_the_render(shot, frames, direct, style, monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr(progress, "_EVERY", dict.fromkeys(progress.STYLES, 0.0))
        patch.setattr(progress, "_PATIENCE", 0.1)
        patch.setattr(progress, "_writers", {})
        for _ in range(40):
            progress.note("x" * 4000)  # more than a pipe holds
        assert render(shot, "--progress", style, "--json") == 0
        assert pictures(frames) == direct
        os.close(reader)


def test_empty_frames_are_rendered_again(shot, frames, direct):
    """Such files are left after a power failure."""
    frames.mkdir()
    for name in list(direct)[:3]:
        (frames / name).touch()
    assert render(shot) == 0
    assert pictures(frames) == direct


@pytest.mark.parametrize("form", ["png", "exr"])
def test_frames_that_were_cut_off_are_rendered_again(make_shot, frames, tmp_path, form):
    shot = make_shot(4, image_format=form)
    assert render(shot) == 0
    whole = pictures(frames)
    for path, kept in zip(sorted(frames.iterdir()), (1, 50, -1), strict=False):
        path.write_bytes(path.read_bytes()[:kept])
    assert render(shot) == 0
    assert pictures(frames) == whole


def test_bank_gives_another_path_of_the_same_bank(shot, frames, inputs, tmp_path, capfd):
    data = json.loads((shot / "shot.json").read_text())
    (shot / "shot.json").write_text(json.dumps(data | {"bank": "/nowhere/bank.safetensors"}))
    assert render(shot) == 2
    assert "bank.safetensors does not exist" in error_output(capfd)
    assert render(shot, "--frames", 101, "--bank", inputs / "bank.safetensors") == 0
    other = GeneratorConfig(**SMALL | {"style_dim": 40}, banks=BANKS)
    assert render(shot, "--bank", write_bank(tmp_path / "other.safetensors", other, sound=False)) == 2
    assert "is not the bank that the shot was made with" in error_output(capfd)


def test_faults_have_their_exit_code_and_message(shot, frames, tmp_path, capfd):
    assert render(tmp_path / "nothing") == 2
    assert "nothing does not exist; expected the folder of a shot" in error_output(capfd)
    frames.write_bytes(b"a file where the folder would be")
    assert render(shot) == 3
    assert "frames could not be written" in error_output(capfd)
    assert run("shot") == 2
    assert run("shot", "dance") == 2
    assert render(tmp_path / "nothing", "--debug") == 2
    assert "Traceback" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------ info


def test_info_lists_missing_frames(shot, frames, direct, inputs, capfd):
    assert render(shot, "--frames", "105-108,120") == 0
    capfd.readouterr()
    assert run("shot", "info", shot) == 0
    info = json.loads(capfd.readouterr().out)
    assert (info["first_frame"], info["last_frame"], info["frames"], info["fps"]) == (101, 124, FRAMES, FPS)
    assert (info["pictures"], info["pictures_missing"]) == (18, 18 - len(pictures(frames)))
    assert info["missing_frames"] == "101-104,109-118,121-124", "119 holds what 120 shows"
    assert (info["bank_problem"], info["sound"]) == (None, str(shot / "line.wav"))
    assert render(shot, f"--frames={info['missing_frames']}") == 0
    assert pictures(frames) == direct
    capfd.readouterr()
    assert run("shot", "info", shot, "--frames-folder", frames.parent / "elsewhere") == 0
    assert json.loads(capfd.readouterr().out)["missing_frames"] == "101-124"


# ------------------------------------------------------------------------------------------------ encode


def test_encode_writes_a_clip_with_sound(shot, frames, direct, tmp_path, inputs, capfd):
    out = tmp_path / "clip.mp4"
    encode = ["shot", "encode", shot, "--frames-folder", tmp_path / "direct", "--out", out]
    assert run(*encode) == 0
    count, rate, _, sound = media_lengths(out)
    assert (count, float(rate)) == (FRAMES, FPS)
    assert sound == pytest.approx(FRAMES / FPS, abs=0.03)
    assert run(*encode) == 2
    assert "exists" in error_output(capfd)
    assert run(*encode, "--overwrite", "--audio", "none") == 0
    assert media_lengths(out)[3] is None
    assert run(*encode, "--overwrite", "--audio", tmp_path / "no.wav") == 2
    assert run(*encode, "--overwrite", "--audio", inputs / "line.wav", "--progress", "openjd") == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"Saved: {out}"


def test_encode_with_the_second_sound(shot, frames, direct, inputs, tmp_path, capfd):
    """As in the recording of a screen, whose first stream is the sound of the computer."""
    recording, out = tmp_path / "recording.mkv", tmp_path / "clip.mp4"
    with av.open(str(recording), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=48000, layout="mono") for _ in range(2)]
        for stream, level in zip(streams, (0, 10_000), strict=True):
            tone = (level * np.sin(np.arange(48000) / 20)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
            frame.rate = 48000
            file.mux(stream.encode(frame))
    encode = ["shot", "encode", shot, "--frames-folder", tmp_path / "direct", "--out", out, "--audio", recording]
    for number, loud in ((1, False), (2, True)):
        assert run(*encode, "--audio-stream", number, "--overwrite") == 0
        assert (np.abs(load_sound(out)[0]).max() > 0.2) == loud
    assert run(*encode, "--audio-stream", 3, "--overwrite") == 2
    assert "no audio stream 3; it has 2" in capfd.readouterr().err
    assert run(*encode[:-1], "none", "--audio-stream", 1, "--overwrite") == 2
    assert "--audio-stream needs a sound" in capfd.readouterr().err


def test_encoded_frames_are_in_order(make_shot, tmp_path):
    """Frames of distinct grey levels, which compression preserves."""
    folder = make_shot(10)
    shot = Shot.read(folder)
    levels = {name: 20 * index for index, name in enumerate(dict.fromkeys(shot.file_names()))}
    shot.frames_folder.mkdir()
    for name, level in levels.items():
        save_picture(shot.frames_folder / name, np.full((16, 16, 3), level, np.uint8))
    assert run("shot", "encode", folder, "--out", tmp_path / "clip.mkv") == 0
    found = [rgb.mean() for rgb in read_frames(tmp_path / "clip.mkv")]
    assert found == pytest.approx([levels[name] for name in shot.file_names()], abs=3)


def test_missing_frames_prevent_encoding(shot, frames, tmp_path, capfd):
    assert render(shot, "--frames", "101-104") == 0
    for command in (["encode", shot, "--out", tmp_path / "clip.mp4"], ["frames", shot, "--out", tmp_path / "numbered"]):
        assert run("shot", *command) == 2
        assert "20 of 24 frames are not rendered yet: 105-124." in error_output(capfd)
    assert not (tmp_path / "clip.mp4").exists()
    assert not (tmp_path / "numbered").exists()


@pytest.mark.parametrize(("form", "problem"), [("png", "is damaged"), ("exr", "not rendered yet: 105")])
def test_damaged_frames(make_shot, frames, tmp_path, form, problem, capfd):
    """A PNG whose data is damaged but which has its end, and an EXR that was cut off."""
    shot = make_shot(6, image_format=form)
    assert render(shot) == 0
    damaged = frames / Shot.read(shot).file_names()[4]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:60] + (bytes(len(content) - 72) + content[-12:]) * (form == "png"))
    (tmp_path / "out").mkdir()
    for before in ([], [b"the clip before"]):
        for content in before:
            (tmp_path / "out" / "clip.mp4").write_bytes(content)
        assert run("shot", "encode", shot, "--out", tmp_path / "out" / "clip.mp4", "--overwrite") == 2
        assert problem in error_output(capfd)
        assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == before


@pytest.mark.parametrize("channels", [3, 4])
def test_exr_and_png_give_the_same_clip(tmp_path, channels):
    pixels = np.random.default_rng(3).integers(0, 256, (32, 16, channels)).astype(np.uint8)
    pixels[0, :, :3] = np.arange(16)[:, None]
    for name in ("a.png", "a.exr"):
        save_picture(tmp_path / name, pixels)
    png, exr = (read_frame(tmp_path / name).astype(int) for name in ("a.png", "a.exr"))
    assert png.shape == (32, 16, 3)
    if channels == 3:
        assert np.array_equal(png, exr)
        return
    solid = pixels[..., 3] > 250  # over black in linear light here, in sRGB there: the same only where little shows
    assert np.abs(png - exr)[solid].max() <= 4


def test_a_shot_without_frame_rate_cannot_be_encoded(make_shot, tmp_path, capfd):
    shot = make_shot(2)
    found = Shot.read(shot)
    replace(found, coefficients=replace(found.coefficients, fps=None)).write(shot)
    assert render(shot) == 0
    assert run("shot", "encode", shot, "--out", tmp_path / "clip.mp4") == 2
    assert "no frame rate" in error_output(capfd)


# ------------------------------------------------------------------------------------------------ frames


def test_numbered_frames_are_links(shot, frames, tmp_path):
    assert render(shot) == 0
    out = tmp_path / "numbered"
    assert run("shot", "frames", shot, "--out", out) == 0
    names = Shot.read(shot).file_names()
    assert {path.name for path in out.iterdir()} == {"sound.wav", *(f"frame_{n:04d}.png" for n in range(101, 125))}
    for row, name in enumerate(names):
        assert (out / f"frame_{FIRST + row:04d}.png").samefile(frames / name)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run("shot", "frames", shot, "--out", out) == 0, "again is nothing"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_numbered_copies_are_independent(shot, frames, direct, tmp_path):
    assert render(shot) == 0
    out = tmp_path / "numbered"
    for _ in range(2):  # links become copies, copies stay
        assert run("shot", "frames", shot, "--out", out, *(["--copy"] if out.exists() else [])) == 0
    with (out / "frame_0101.png").open("r+b") as file:
        file.write(b"ruined")
    assert pictures(frames) == direct
    assert run("shot", "frames", shot, "--out", out, "--copy") == 2
    assert run("shot", "frames", shot, "--out", out, "--copy", "--overwrite") == 0
    assert (out / "frame_0101.png").read_bytes() == direct[Shot.read(shot).file_names()[0]]


def test_numbered_frames_without_link_support(shot, direct, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = ["--frames-folder", tmp_path / "direct"]
    assert run("shot", "frames", shot, "--out", tmp_path / "numbered", *folder) == 0
    names = Shot.read(shot).file_names()
    for row in range(FRAMES):
        assert (tmp_path / "numbered" / f"frame_{FIRST + row:04d}.png").read_bytes() == direct[names[row]]
