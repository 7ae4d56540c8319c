"""Errors of the command line: invalid input, a full disk, Ctrl-C, internal errors."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from inference.cli import progress, rendering
from inference.contract.coefficients import Coefficients
from tests.cli_material import ROOT, make, media_lengths, render, run, write_wav
from tests.synthetic_inputs import waveform


def refusal(capsys, *words: object, code: int = 2) -> str:
    """The one line on stderr of a command that must fail with `code`."""
    capsys.readouterr()
    found = run(*words)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edtalk: ")]
    assert found == code, lines
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    assert "Internal" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--audio", "voice", "--lip-video", "lip11"], "not allowed with"),
        (["--audio", "voice", "--pose-video", "pose5", "--fixed-pose"], "not allowed with"),
        (["--audio", "voice", "--relative"], "--relative requires a driving clip"),
        (["--audio", "voice", "--intensity", "0.5"], "--intensity and --emotion-base require --emotion"),
        (["--audio", "voice", "--expression", "exp3", "--emotion", "sad", "--emotion-base", "neutral"], "replace"),
        (["--audio", "voice", "--paste-back", "--size", "64"], "--size cannot be used with --paste-back"),
        (["--audio", "voice", "--bank", "lip_pose", "--emotion", "happy"], "has no expression coefficients"),
        (["--audio", "voice", "--bank", "lip_pose", "--expression", "exp3"], "has no expression coefficients"),
        (["--audio", "voice", "--bank", "lip_pose", "--idle-motion", "1", "--source", "nowhere.png"], "nowhere.png"),
        (["--audio", "voice", "--bank", "silent_bank"], "no lip-sync network"),
        (["--audio", "voice", "--emotion", "hapy"], "no emotion 'hapy'; this bank has: happy, neutral, sad"),
        (["--audio", "voice", "--emotion", "0:happy"], "not a valid key"),
        (["--audio", "voice", "--frames", "12-20"], "only frames 0 to 11"),
        (["--audio", "voice", "--frames", "5-2"], "expected frames"),
        (["--audio", "voice", "--seconds", "3-1"], "expected seconds"),
        (["--audio", "voice", "--fps", "0"], "expected frames per second"),
        (["--audio", "voice", "--fps", "1e999999999"], "expected frames per second"),
        (["--audio", "voice", "--threads", "9999999"], "at most 1024 threads"),
        (["--audio", "voice", "--crop", "0,0,100000"], "expected auto, none or x,y,size"),
        (["--audio", "voice", "--crop", "1,2"], "expected auto, none or x,y,size"),
        (["--audio", "voice", "--crop", "500,500,20"], "outside source.png"),
        (["--audio", "voice", "--face", "2"], "--face requires face detection"),
        (["--audio", "voice", "--device", "quantum"], "The device 'quantum' is not available"),
        (["--audio", "nowhere.wav"], "nowhere.wav does not exist"),
        (["--audio", "voice", "--sound", "nowhere.wav"], "nowhere.wav does not exist"),
        (["--audio", "source"], "source.png"),
        (["--audio", "voice", "--pose-video", "voice"], "has no video"),
        (["--audio", "voice", "--bank", "source"], "is not a bank"),
        (["--audio", "voice", "--format", "png", "--out", "out.mp4"], "--format png requires a folder"),
        (["--audio", "voice", "--out", "out.avi"], "a video (.mp4, .mov, .mkv) or a folder"),
        (["--coefficients", "voice"], "not a readable coefficient file"),
        (["--emotion", "happy"], "Cannot determine the output length"),
        (["--seconds", "1"], "No driving input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_invalid_input_gives_one_message(material, tmp_path, capsys, words, expected):
    out = tmp_path / "out" if "--out" not in words else tmp_path / words[words.index("--out") + 1]
    words = [getattr(material, word, word) for word in words]
    words = words[: words.index("--out")] if "--out" in words else words
    assert expected in refusal(capsys, *render(material, *words, "--out", out))
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_damaged_files(material, tmp_path, capsys):
    files = tmp_path / "files"
    files.mkdir()
    (files / "empty").touch()
    (files / "noise").write_bytes(np.random.default_rng(1).bytes(5000))
    (files / "generator.pt").write_bytes(b"PK\x03\x04" + bytes(200))
    cases = [
        (option, files / f"{kind}{suffix}")
        for kind in ("empty", "noise", "missing")
        for option, suffix in (("--source", ".png"), ("--audio", ".wav"), ("--lip-video", ".mp4"), ("--bank", ""))
    ]
    for option, path in [*cases, ("--bank", files / "generator.pt")]:
        if path.stem != "missing" and not path.exists():
            path.write_bytes((files / path.stem).read_bytes())
        drive = [] if option in ("--audio", "--lip-video") else ["--audio", material.voice]
        assert path.name in refusal(capsys, *render(material, *drive, option, path, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_was_found_in_another_kind_of_file(material, tmp_path, capsys):
    """Every option for a file says what the file contains."""
    for option in ("--source", "--audio", "--lip-video", "--coefficients", "--bank"):
        path = tmp_path / "other.csv"
        path.write_text("Hello, world")
        drive = [] if option in ("--audio", "--lip-video", "--coefficients") else ["--audio", material.voice]
        said = refusal(capsys, *render(material, *drive, option, path, "--out", tmp_path / "out"))
        assert "found a text file that begins 'Hello, world'" in said
        assert str(path) in said


def test_a_file_in_the_place_of_a_shot(material, capsys):
    assert "source.png is a file; expected the folder of a shot" in refusal(capsys, "shot", "info", material.source)


def test_missing_parts_of_a_bank(material, tmp_path, capsys):
    words = ["lipsync", "--audio", material.voice, "--out", tmp_path / "x.npz", "--bank"]
    assert "--audio2lip" in refusal(capsys, *words, material.silent_bank)
    words = ["capture", "--video", material.pose5, "--only", "eye", "--out", tmp_path / "x.npz", "--bank"]
    assert "no part 'eye'" in refusal(capsys, *words, material.bank)


def test_coefficients_of_another_bank(material, tmp_path, capsys):
    Coefficients(np.zeros((3, 1)), ("nose",), 25).save(tmp_path / "x.npz")
    words = render(material, "--coefficients", tmp_path / "x.npz", "--out", tmp_path / "out")
    assert "'nose'" in refusal(capsys, *words)


def test_outputs_are_not_overwritten_without_the_option(material, tmp_path, capsys):
    words = render(material, "--audio", material.voice, "--frames", "0-1", "--out")
    for out in ("out.mp4", "out"):
        assert run(*words, tmp_path / out) == 0
        assert "exists" in refusal(capsys, *words, tmp_path / out)
        assert run(*words, tmp_path / out, "--overwrite") == 0
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(material.clip.read_bytes())
    words = render(material, "--source", clip, "--audio", material.voice, "--out", clip, "--overwrite")
    assert "one of the inputs" in refusal(capsys, *words)
    assert clip.read_bytes() == material.clip.read_bytes()


def test_unusual_sounds(material, tmp_path):
    stereo = np.stack([waveform(0.5, 8000), waveform(0.5, 8000)])
    voices = [write_wav(tmp_path / "phone.mp3", stereo, 8000), write_wav(tmp_path / "still.wav", np.zeros(8000))]
    for index, voice in enumerate(voices):
        out = tmp_path / f"{index}.mp4"
        assert run(*render(material, "--audio", voice, "--expression", material.exp3, "--out", out)) == 0
        frames, _, seconds, sound = media_lengths(out)
        assert frames >= 12
        assert abs(sound - seconds) <= 0.04


def test_a_short_clip_with_every_driver_end(material, tmp_path):
    for end in ("hold", "mirror", "loop", "upstream"):
        words = ["--audio", material.voice, "--pose-video", material.exp3, "--expression", material.exp3,
                 "--driver-end", end, "--out", tmp_path / end]  # fmt: skip
        assert len(make(material, *words).coefficients) == 12


def test_internal_errors_are_reported_as_such(material, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise KeyError("no such thing")

    monkeypatch.setattr(rendering.Performance, "coefficients", broken)
    words = render(material, "--audio", material.voice, "--out", tmp_path / "out")
    assert run(*words) == 1
    expected = capsys.readouterr().err
    assert "Internal error (KeyError" in expected
    assert "Traceback" not in expected
    assert run(*words, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_little_memory_is_not_reported_as_a_fault_of_the_program(material, tmp_path, monkeypatch, capsys):
    def too_large(*_):
        raise MemoryError

    monkeypatch.setattr(rendering.Performance, "coefficients", too_large)
    words = render(material, "--audio", material.voice, "--out", tmp_path / "out")
    assert "too little free memory" in refusal(capsys, *words)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such file names")
def test_file_names_that_are_not_text_can_be_named_in_messages(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.csv"
    command = [sys.executable, "-m", "inference", "render", "--coefficients", name, "--source", name, "--out", name]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert answer.returncode == 2
    assert b"Internal" not in answer.stderr


# ------------------------------------------------------------------------------------------- disk full, Ctrl-C


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_disk_full(material, tmp_path, capsys, out):
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)).save(noise)
    words = ["--source", noise, "--crop", "100,100,64", "--paste-back", "--audio", material.voice, "--sound", "none"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        expected = refusal(capsys, *render(material, *words, "--out", tmp_path / out), code=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert out in expected
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["noise.png"]


def test_a_missing_output_folder_is_a_disk_error(material, tmp_path, capsys):
    words = render(material, "--audio", material.voice, "--out")
    for out in ("missing/out.mp4", "missing/deep/out"):
        assert "does not exist" in refusal(capsys, *words, tmp_path / out, code=3)


@pytest.mark.parametrize("out", ["out.mp4", "out"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_keeps_finished_frames(material, tmp_path, monkeypatch, capsys, out, number):
    step, before = progress.Progress.step, signal.getsignal(signal.SIGINT)

    def stop_at_three(self):
        step(self)
        if self.label == "rendering" and self.done == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(progress.Progress, "step", stop_at_three)
    words = render(material, "--audio", material.voice, "--out", tmp_path / out, "--json")
    assert run(*words) == 128 + number
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["event"], report["frames"]) == ("stopped", 3)
    assert "Stopped after 3 of" in said.err
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    if out == "out.mp4":
        assert names == ["out.mp4"]
        frames, _, seconds, sound = media_lengths(tmp_path / out)
        assert frames == 3
        assert abs(sound - seconds) <= 0.04
    else:
        assert names == ["frame_0001.png", "frame_0002.png", "frame_0003.png", "sound.wav"]
        monkeypatch.undo()
        (again,) = set(re.findall(r"add (--frames 3-\d+)", said.err))
        assert again in refusal(capsys, *words), "what an interrupted run left is recognised"
        assert run(*words, *again.split()) == 0
        assert len(list((tmp_path / out).glob("*.png"))) == int(again.rpartition("-")[2]) + 1
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_process(material, tmp_path):
    words = render(material, "--seconds", 500, "--idle-motion", 1, "--out", tmp_path / "out.mp4", "--progress", "json")
    command = [sys.executable, "-m", "inference", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    frames, *_ = media_lengths(tmp_path / "out.mp4")
    assert first["done"] <= frames < 12500
