"""All commands on a small random bank: coefficients and images of every mode, and the files written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference import cli, lipsync
from inference.cli import progress, rendering
from inference.cli.bench import RandomBank
from inference.contract.bank import STARTER, load_bank
from inference.contract.coefficients import Coefficients
from inference.contract.config import GeneratorConfig
from inference.drawing import ShotRenderer
from inference.media import sound as media_sound
from inference.media.video import probe
from inference.media.video_writer import VideoWriter
from inference.renderer import FaceRenderer
from tests.cli_material import (
    BANKS,
    EMOTIONS,
    NAMED,
    ROOT,
    SMALL,
    make,
    media_lengths,
    pictures,
    render,
    run,
    write_bank,
    write_wav,
)
from tests.synthetic_inputs import picture, waveform

LIP, POSE, EXP = slice(0, 20), slice(20, 26), slice(26, 36)


def renderer_of(bank: Path) -> FaceRenderer:
    renderer = FaceRenderer(load_bank(bank), device="cpu", threads=1)
    source = picture("source_0", 64, 64)
    renderer.set_source(source, source)
    return renderer


def read_png(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


# ------------------------------------------------------------------------------------------------------ modes

HOLD5 = [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]
MIRROR5 = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1]
MIRROR3 = [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("mode", "words", "bank", "lip", "pose", "exp"),
    [
        ("A preset", ["--audio", "voice", "--pose-video", "pose5", "--emotion", "happy", "--emotion-base", "neutral"],
         "bank", "audio", HOLD5, "happy"),
        ("A clip", ["--audio", "voice", "--pose-video", "pose5", "--expression", "exp3"],
         "bank", "audio", HOLD5, MIRROR3),
        ("V", ["--lip-video", "lip11", "--pose-video", "pose5", "--expression", "exp3"],
         "bank", range(11), HOLD5[:11], MIRROR3[:11]),
        ("V preset", ["--lip-video", "lip11", "--pose-video", "pose5", "--emotion", "sad", "--emotion-base", "neutral"],
         "bank", range(11), HOLD5[:11], "sad"),
        ("lip+pose audio", ["--audio", "voice", "--pose-video", "pose5"], "lip_pose", "audio", MIRROR5, None),
        ("lip+pose video", ["--lip-video", "lip11", "--pose-video", "pose5"],
         "lip_pose", range(11), HOLD5[:11], None),
        ("fixed pose", ["--audio", "voice", "--fixed-pose"], "lip_pose", "audio", "own", None),
        ("self", ["--lip-video", "pose5", "--pose-video", "pose5"], "lip_pose", range(5), range(5), None),
    ],
)  # fmt: skip
def test_coefficients_of_every_mode(material, tmp_path, mode, words, bank, lip, pose, exp):
    bank = getattr(material, bank)
    words = [getattr(material, word, word) for word in words]
    result = make(material, "--bank", bank, *words, "--out", tmp_path / "out")

    renderer = renderer_of(bank)
    own = renderer.source_coefficients.values
    frames = len(result.coefficients)
    expected = np.repeat(own, frames, axis=0)
    if lip == "audio":
        samples, rate = media_sound.load_sound(material.voice)
        expected[:, LIP] = lipsync.lip_sync(samples, rate, np.arange(frames) / 25, load_bank(bank))
    else:
        driver = {11: pictures("lip", 11), 5: pictures("pose", 5)}[len(lip)]
        expected[:, LIP] = renderer.encode(driver).values[:, LIP]
    if pose != "own":
        expected[:, POSE] = renderer.encode(pictures("pose", 5)).values[list(pose), POSE]
    if isinstance(exp, str):
        expected[:, EXP] = load_bank(bank).presets[exp]
    elif exp:
        expected[:, EXP] = renderer.encode(pictures("exp", 3)).values[exp, EXP]
    assert frames == (12 if lip == "audio" else len(lip))
    np.testing.assert_allclose(result.coefficients, expected, atol=1e-6)
    drawn = read_png(tmp_path / "out")
    assert len(drawn) == frames
    for index in (0, frames - 1):
        (direct,) = renderer.render(result.coefficients[index : index + 1])
        np.testing.assert_array_equal(drawn[index], direct)


def test_dubbing_uses_each_frame_of_the_clip_as_its_own_source(material, tmp_path):
    bank = material.lip_pose
    result = make(material, "--bank", bank, "--source", material.pose5, "--audio", material.voice, "--out", tmp_path)
    renderer = renderer_of(bank)
    sources = [pictures("pose", 5)[index] for index in MIRROR5]
    samples, rate = media_sound.load_sound(material.voice)
    lips = lipsync.lip_sync(samples, rate, np.arange(12) / 25, load_bank(bank))
    np.testing.assert_array_equal(result.coefficients[:, LIP], lips)
    assert not result.coefficients[:, POSE].any(), "nothing drives the head"
    added = np.arange(26) >= 20
    expected = renderer.render_frames(sources, result.coefficients, added=added, details=sources)
    for drawn, direct in zip(read_png(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(drawn, direct)


@pytest.mark.parametrize(
    "words",
    [
        ["--audio", "voice", "--emotion", "0=neutral 0.3=happy", "--size", 96],
        ["--audio", "voice", "--idle-motion", 1, "--size", 40, "--layer", "matte"],
        ["--lip-video", "lip11", "--pose-video", "pose5", "--relative", "--layer", "plate", "--mask", "mouth"],
        ["--lip-video", "lip11", "--plain", "--paste-back", "--frames", "3-6"],
        ["--source", "clip", "--audio", "voice", "--paste-back", "--emotion", "sad"],
        ["--source", "clip", "--audio", "voice", "--idle-motion", 1, "--frames", "6-11"],
        ["--source", "pose5", "--crop", "8,8,40", "--pose-video", "pose5", "--seconds", 0.4, "--layer", "pasted"],
        ["--source", "clip", "--expression", "exp3", "--relative", "--layer", "plate", "--feather", 0.5],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_render_and_shot_render_give_the_same_frames(material, tmp_path, words):
    words = render(material, *(getattr(material, str(word), word) for word in words), "--out", tmp_path / "out")
    assert run(*words) == 0
    args = cli.build_parser().parse_args([str(word) for word in words])
    shot = rendering.Inputs(args).plan(ShotRenderer("cpu", 1)).shot
    replace(shot, frames_folder=tmp_path / "frames").write(tmp_path / "shot")
    assert run("shot", "render", tmp_path / "shot", "--device", "cpu", "--threads", 1) == 0
    assert run("shot", "frames", tmp_path / "shot", "--out", tmp_path / "numbered") == 0
    found = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("*.png")}
    assert sorted(found) == sorted(path.name for path in (tmp_path / "numbered").glob("*.png"))
    for name, pixels in found.items():
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "numbered" / name)))


def test_dubbing_adds_to_the_frames_own_values_or_replaces_them(material, tmp_path):
    """Emotions and relative motion are added to each frame's own values; absolute motion replaces them."""
    words = ["--source", material.clip, "--frames", "0-4", "--out", tmp_path / "out", "--overwrite"]
    renderer = renderer_of(material.bank)
    driver = renderer.encode(pictures("pose", 5)).values
    happy = load_bank(material.bank).emotion_offsets()["happy"]

    found = make(material, *words, "--emotion", "happy").coefficients[:5]
    np.testing.assert_allclose(found, np.where(np.arange(36) >= 26, np.pad(happy, (26, 0)), 0) + np.zeros((5, 1)))
    found = make(material, *words, "--pose-video", material.pose5).coefficients[:5]
    np.testing.assert_allclose(found[:, POSE], driver[:, POSE], atol=1e-6)
    found = make(material, *words, "--pose-video", material.pose5, "--relative").coefficients[:5]
    np.testing.assert_allclose(found[:, POSE], (driver - driver[0])[:, POSE], atol=1e-6)


def test_relative_adds_the_change_since_the_first_frame(material, tmp_path):
    words = ["--lip-video", material.lip11, "--pose-video", material.pose5, "--relative", "--out", tmp_path / "out"]
    result = make(material, *words)
    renderer = renderer_of(material.bank)
    own, rows = renderer.source_coefficients.values, renderer.encode(pictures("pose", 5)).values
    np.testing.assert_allclose(result.coefficients[0], own[0], atol=1e-6)
    np.testing.assert_allclose(result.coefficients[3, POSE], own[0, POSE] + rows[3, POSE] - rows[0, POSE], atol=1e-6)


def test_emotions_are_scaled_and_added_to_the_expression(material, tmp_path):
    curve = ["--emotion", "0=neutral 100%=happy:0.5", "--intensity", 2]
    result = make(material, "--audio", material.voice, *curve, "--out", tmp_path / "out")
    own, presets = renderer_of(material.bank).source_coefficients.values[0, EXP], load_bank(material.bank).presets
    np.testing.assert_allclose(result.coefficients[0, EXP], own, atol=1e-6)
    middle = own + 0.5 * (presets["happy"] - presets["neutral"])  # half-way to 2 x 0.5
    np.testing.assert_allclose(result.coefficients[6, EXP], middle, atol=1e-5)


def test_files_from_capture_and_lipsync_render_as_their_sources(material, tmp_path):
    options = ["--bank", material.bank, "--out"]
    assert run("capture", "--video", material.pose5, "--crop", "none", "--only", "pose,exp", *options,
               tmp_path / "motion.npz") == 0  # fmt: skip
    assert run("lipsync", "--audio", material.voice, "--only", "lip", *options, tmp_path / "lips.csv") == 0
    captured, spoken = (Coefficients.load(tmp_path / name) for name in ("motion.npz", "lips.csv"))
    assert (len(captured), len(captured.names), captured.fps) == (5, 16, 25)
    assert (len(spoken), len(spoken.names), spoken.fps) == (12, 20, 25)

    table = make(material, "--coefficients", tmp_path / "motion.npz", "--out", tmp_path / "table").coefficients
    driven = make(material, "--pose-video", material.pose5, "--expression", material.pose5, "--out", tmp_path / "clip")
    np.testing.assert_array_equal(table, driven.coefficients)
    table = make(material, "--coefficients", tmp_path / "lips.csv", "--out", tmp_path / "csv").coefficients
    heard = make(material, "--audio", material.voice, "--out", tmp_path / "wav").coefficients
    np.testing.assert_allclose(table, heard, atol=1e-6)
    still = make(material, "--coefficients", tmp_path / "motion.npz", "--fixed-pose", "--out", tmp_path / "still")
    assert (still.coefficients[:, POSE] == still.coefficients[0, POSE]).all()
    faster = make(material, "--coefficients", tmp_path / "motion.npz", "--fps", 50, "--out", tmp_path / "faster")
    assert len(faster.coefficients) == 10
    np.testing.assert_array_equal(faster.coefficients[::2], driven.coefficients)


def test_lipsync_leaves_other_coefficients_at_rest(material, tmp_path):
    assert run("lipsync", "--audio", material.voice, "--bank", material.bank, "--fps", 30, "--out",
               tmp_path / "lips.npz", "--json") == 0  # fmt: skip
    found = Coefficients.load(tmp_path / "lips.npz")
    assert found.values.shape == (15, 36)
    assert not found.values[:, 20:].any()


def test_idle_motion_moves_named_coefficients_only(material, tmp_path):
    words = ["--seconds", 3, "--idle-motion", 1, "--out", tmp_path / "out"]
    values = make(material, *words).coefficients
    moved = (np.ptp(values, axis=0) > 0).nonzero()[0].tolist()
    assert moved == sorted(NAMED)
    assert values[:, 29].max() > 0.5


# ------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("fps", ["24", "25", "30", "24000/1001"])
def test_video_and_sound_have_the_same_length(material, tmp_path, capsys, fps):
    out = tmp_path / "out.mp4"
    assert run(*render(material, "--audio", material.voice, "--fps", fps, "--out", out, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    frames, rate, seconds, sound = media_lengths(out)
    assert report["frames"] == frames == int(Fraction(fps) / 2 + Fraction(1, 10**6))
    assert rate == Fraction(fps)
    assert report["seconds"] == pytest.approx(seconds, rel=1e-3)
    assert abs(sound - seconds) <= 1 / rate
    assert (report["event"], report["device"], report["out"]) == ("done", "cpu", str(out))
    assert report["ms_per_frame"] > 0


def test_a_clip_keeps_its_speed_and_its_sound(material, tmp_path):
    for fps, expected in ((25, 10), (50, 20), (12.5, 5)):
        out = tmp_path / f"{fps}.mp4"
        assert run(*render(material, "--lip-video", material.clip, "--fps", fps, "--out", out)) == 0
        frames, _, seconds, sound = media_lengths(out)
        assert frames == expected
        assert abs(sound - seconds) <= 1 / fps
    assert run(*render(material, "--lip-video", material.clip, "--sound", "none", "--out", tmp_path / "mute.mp4")) == 0
    assert media_lengths(tmp_path / "mute.mp4")[3] is None


def test_parts_of_a_render_equal_the_whole(material, tmp_path):
    words = ["--lip-video", material.lip11, "--pose-video", material.pose5, "--emotion", "0=neutral 50%=sad",
             "--idle-motion", 1, "--driver-end", "mirror", "--out"]  # fmt: skip
    assert run(*render(material, *words, tmp_path / "whole")) == 0
    for span in ("0-3", "4-4", "5-10"):
        assert run(*render(material, *words, tmp_path / "parts", "--frames", span)) == 0
    whole, parts = (sorted((tmp_path / name).glob("*.png")) for name in ("whole", "parts"))
    assert [path.name for path in whole] == [path.name for path in parts]
    assert len(whole) == 11
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(whole, parts, strict=True))


def test_parts_of_a_dubbed_clip_equal_the_whole(material, tmp_path):
    words = ["--source", material.clip, "--audio", material.voice, "--paste-back", "--out"]
    assert run(*render(material, *words, tmp_path / "whole")) == 0
    for span in ("0-9", "10-11"):
        assert run(*render(material, *words, tmp_path / "parts", "--frames", span)) == 0
    for one, other in zip(read_png(tmp_path / "whole"), read_png(tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rate", ["24", "24000/1001", "30000/1001", "60"])
def test_dubbed_clip_keeps_its_frame_rate(material, tmp_path, rate):
    source, out = tmp_path / "shot.mp4", tmp_path / "out.mp4"
    with VideoWriter(source, Fraction(rate), (64, 64)) as writer:
        for index in range(9):
            writer.write(picture(f"clip_{index}", 64, 64))
    words = ["--source", source, "--paste-back", "--emotion", "happy"]
    assert run(*render(material, *words, "--out", out)) == 0
    assert (probe(out).fps, probe(out).frames) == (Fraction(rate), 9)
    assert run(*render(material, *words, "--fps", 12, "--out", tmp_path / "slow.mp4")) == 0
    assert probe(tmp_path / "slow.mp4").fps == 12


def test_detail_and_plain_output(material, tmp_path):
    large = picture("large", 200, 200)
    Image.fromarray(large).save(tmp_path / "large.png")
    words = ["--source", tmp_path / "large.png", "--seconds", 0.1, "--emotion", "happy", "--intensity", 0, "--out"]
    assert run(*render(material, *words, tmp_path / "detail", "--size", 128)) == 0
    assert run(*render(material, *words, tmp_path / "plain", "--size", 128, "--plain")) == 0
    renderer = FaceRenderer(load_bank(material.bank), device="cpu", threads=1)
    fine = np.asarray(Image.fromarray(large).resize((128, 128)))
    renderer.set_source(large, fine)
    result = make(material, *words, tmp_path / "again", "--size", 128)
    (direct,) = renderer.render(result.coefficients[:1])
    np.testing.assert_array_equal(read_png(tmp_path / "detail")[0], direct)
    renderer.set_source(large)
    (direct,) = renderer.render(result.coefficients[:1])
    direct = np.asarray(Image.fromarray(direct).resize((128, 128), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(read_png(tmp_path / "plain")[0], direct)


def test_a_range_gets_its_part_of_the_sound(material, tmp_path):
    samples = np.concatenate([np.zeros(8000, np.float32), waveform(0.5)])
    voice = write_wav(tmp_path / "late.wav", samples)
    words = ["--audio", voice, "--seconds", "0.5-1", "--out", tmp_path / "out.mp4"]
    assert run(*render(material, *words)) == 0
    frames, _, seconds, sound = media_lengths(tmp_path / "out.mp4")
    assert frames in (12, 13)
    assert abs(sound - seconds) <= 0.04
    heard, _ = media_sound.load_sound(tmp_path / "out.mp4")
    assert np.abs(heard[:4000]).max() > 0.1


def test_audio_stream_can_be_chosen(material, tmp_path, capsys):
    for command in (
        ["lipsync", "--audio", material.clip, "--bank", material.bank, "--out", tmp_path / "out.csv"],
        render(material, "--lip-video", material.clip, "--out", tmp_path / "out.mp4"),
        render(material, "--audio", material.clip, "--out", tmp_path / "other.mp4"),
    ):
        assert run(*command, "--audio-stream", 2) == 2
        assert "has no audio stream 2; it has 1" in capsys.readouterr().err
        assert not command[-1].exists()
        assert run(*command, "--audio-stream", 1) == 0


def test_image_folders_sizes_and_paste_back(material, tmp_path):
    sound = ["--audio", material.voice, "--frames", "0-1", "--out"]
    assert run(*render(material, *sound, tmp_path / "exr", "--format", "exr")) == 0
    assert sorted(path.name for path in (tmp_path / "exr").iterdir()) == [
        "frame_0001.exr", "frame_0002.exr", "sound.wav"
    ]  # fmt: skip
    assert run(*render(material, *sound, tmp_path / "large", "--size", 100)) == 0
    assert read_png(tmp_path / "large")[0].shape == (100, 100, 3)
    assert run(*render(material, *sound, tmp_path / "small", "--size", 40)) == 0
    assert read_png(tmp_path / "small")[0].shape == (40, 40, 3)
    assert run(*render(material, *sound, tmp_path / "odd.mp4", "--size", 101)) == 0
    assert media_lengths(tmp_path / "odd.mp4")[0] == 2

    scene = np.dstack([picture("scene", 90, 120), np.full((90, 120), 200, np.uint8)])
    Image.fromarray(scene).save(tmp_path / "scene.png")
    full = ["--source", tmp_path / "scene.png", "--crop", "20,10,60", "--paste-back"]
    assert run(*render(material, *sound, tmp_path / "full", *full)) == 0
    drawn = read_png(tmp_path / "full")[0]
    assert drawn.shape == scene.shape
    outside = np.ones((90, 120), bool)
    outside[10:70, 20:80] = False
    np.testing.assert_array_equal(drawn[outside], scene[outside])
    assert (drawn[20:60, 30:70, :3] != scene[20:60, 30:70, :3]).any()
    assert run(*render(material, *sound, tmp_path / "full.mp4", *full)) == 0


def test_json_progress(material, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(progress._EVERY, "json", 0.0)
    words = ["--lip-video", material.lip11, "--out", tmp_path / "out", "--progress", "json", "--json"]
    assert run(*render(material, *words)) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["progress", "done"]
    drawing = [event for event in events if event.get("task") == "rendering"]
    assert [event["done"] for event in drawing] == [*range(1, 12), 11]
    assert {event["total"] for event in drawing} == {11}
    assert events[0]["task"] == "reading lip11"


def test_demo_and_sheet(material, tmp_path, capsys):
    words = ["--bank", material.bank, "--audio", material.voice, "--emotion", "0=neutral 0.4=happy", "--threads", 1]
    assert run("demo", *words, "--out", tmp_path / "d.mp4", "--json") == 0
    assert media_lengths(tmp_path / "d.mp4")[0] == 12
    sheet = np.asarray(Image.open(tmp_path / "d.png"))
    assert sheet.shape[1] > 900
    assert json.loads(capsys.readouterr().out)["sheet"] == str(tmp_path / "d.png")


# --------------------------------------------------------------------------------------------- other commands


def test_help_does_not_load_torch(capsys):
    for command in ("render", "lipsync", "capture", "demo", "convert", "inspect", "bench", "selftest"):
        assert run(command, "--help") == 0
        assert len(capsys.readouterr().out) > 300
    code = "import sys; from inference import cli, load_bank; cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names_can_be_imported():
    import inference

    promised = {"load_bank", "Bank", "Coefficients", "FaceRenderer", "lip_sync", "EDTalkError", "EmotionCurve"}
    assert promised | {"load_portrait", "head_motion"} <= set(inference.__all__)
    assert all(getattr(inference, name) is not None for name in inference.__all__)
    assert inference.FaceRenderer is FaceRenderer
    with pytest.raises(AttributeError, match="nonsense"):
        _ = inference.nonsense


def test_selftest_reports_each_check(material, capsys):
    assert run("selftest", "--bank", material.bank, "--threads", 1, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["render"]["device"] == "cpu" or found["render"]["device"].startswith(("cuda", "mps"))
    assert "25 frames" in found["lip_sync"]
    assert run("selftest", "--bank", material.bank, "--threads", 1) == 0
    assert "torch" in capsys.readouterr().out
    assert run("selftest", "--bank", material.source, "--json") == 1
    assert "FAILED" in json.loads(capsys.readouterr().out)["bank"]


def test_inspect_and_bench(material, capsys):
    assert run("inspect", material.bank, "--json") == 0
    assert json.loads(capsys.readouterr().out)["presets"].keys() == set(EMOTIONS)
    assert run("inspect", material.lip_pose) == 0
    assert "lip 20, pose 6" in capsys.readouterr().out
    assert run("bench", "--bank", material.bank, "--frames", 2, "--threads", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_convert_writes_a_bank_once(tmp_path, capsys):
    config = GeneratorConfig(**SMALL, banks=BANKS[:2])
    weights = {name: torch.from_numpy(tensor) for name, tensor in RandomBank.of(config).tensors.items()}
    torch.save({"gen": weights}, tmp_path / "small.pt")
    words = ["convert", "--generator", tmp_path / "small.pt", "--out", tmp_path / "small.safetensors", "--json"]
    code = run(*words)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["name"] == "small"
    assert load_bank(tmp_path / "small.safetensors").config == config
    assert run(*words) == 2


# ---------------------------------------------------------------------------------------------------- real media


@pytest.fixture(scope="module")
def real_bank(material) -> Path:
    """The starter bank if it is installed."""
    return STARTER if STARTER.exists() else material.bank


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--audio", "mouth_source.wav", "--pose-video", "pose_source1.mp4", "--emotion", "0=neutral 0.4=happy"],
        ["--audio", "mouth_source.wav", "--pose-video", "pose_source1.mp4", "--expression", "mouth_source.mp4"],
        ["--audio", "mouth_source.wav", "--pose-video", "identity_source.jpg", "--expression", "identity_source.jpg"],
        ["--lip-video", "mouth_source.mp4", "--pose-video", "pose_source1.mp4", "--expression", "mouth_source.mp4"],
        ["--lip-video", "mouth_source.mp4", "--pose-video", "pose_source1.mp4", "--emotion", "sad", "--relative"],
        ["--audio", "mouth_source.wav", "--fixed-pose", "--idle-motion", "1"],
        ["--source", "uncrop_face.jpg", "--audio", "mouth_source.wav", "--paste-back"],
        ["--source", "pose_source1.mp4", "--audio", "mouth_source.wav", "--paste-back"],
        ["--lip-video", "pose_source1.mp4", "--pose-video", "pose_source1.mp4"],
    ],
    ids=["A preset", "A clip", "A still", "V", "V relative", "fixed", "paste back", "dubbing", "self"],
)
def test_real_media_in_every_mode(real_bank, media, tmp_path, capsys, words):
    words = [media / word if (media / word).exists() else word for word in words]
    out = tmp_path / "out.mp4"
    code = run("render", "--bank", real_bank, "--source", media / "identity_source.jpg", *words,
               "--seconds", "0.2-0.6", "--json", "--out", out)  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["frames"] == 10
    frames, _, seconds, sound = media_lengths(out)
    assert frames == 10
    if sound is not None:
        assert abs(sound - seconds) <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize("banks", [BANKS, BANKS[:2]], ids=["edtalk", "lip_pose"])
def test_real_media_at_full_size(media, tmp_path, capsys, banks):
    bank = write_bank(tmp_path / "full.safetensors", GeneratorConfig(banks=banks), narrow=False)
    emotion = ["--emotion", "happy"] if len(banks) > 2 else []
    code = run("render", "--bank", bank, "--source", media / "uncrop_face.jpg", "--audio", media / "mouth_source.wav",
               "--pose-video", media / "pose_source1.mp4", *emotion, "--paste-back", "--frames", "0-1",
               "--out", tmp_path / "out.mp4", "--json")  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert media_lengths(tmp_path / "out.mp4")[0] == 2
