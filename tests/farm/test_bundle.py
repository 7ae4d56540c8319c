"""Job bundles: content, validation by the openjd tool, and running them with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.contract.bank import read_bank
from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError
from inference.contract.farm import Job, template, write_bundle
from inference.contract.shot import Shot
from tests.cli_material import ROOT, media_lengths, run
from tests.farm.conftest import FPS, pictures

pytestmark = pytest.mark.slow

OPENJD = ROOT / ".venv" / "farm" / ("Scripts" if os.name == "nt" else "bin") / "openjd"
PATIENCE = 240  # seconds; only a failing test waits as long
needs_openjd = pytest.mark.skipif(not OPENJD.exists(), reason="needs .venv/farm: bash setup.sh --tests")


def openjd(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (OPENJD, *words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as `direct` below: sums are rounded by threads
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)


def read(bundle: Path, name: str) -> Any:
    return json.loads((bundle / f"{name}.json").read_text())


def bundle(shot: Path, out: Path, *words: object) -> Path:
    assert run("shot", "bundle", shot, "--out", out, *words) == 0
    return out


@pytest.fixture
def direct(tmp_path):
    """Renders a shot in one run into a separate folder and returns its frames."""

    def render(shot: Path) -> dict[str, bytes]:
        folder = tmp_path / "direct"
        assert run("shot", "render", shot, "--device", "cpu", "--threads", 1, "--frames-folder", folder) == 0
        return pictures(folder)

    return render


# ------------------------------------------------------------------------------------------------ content


def test_a_bundle_can_be_moved(make_shot, inputs, tmp_path, direct, capfd):
    shot = make_shot(8)
    expected = direct(shot)
    bundle(shot, tmp_path / "here" / "job")
    shutil.rmtree(shot)
    (tmp_path / "here" / "job").rename(tmp_path / "there")
    capfd.readouterr()
    assert run("shot", "info", tmp_path / "there" / "shot") == 0
    info = json.loads(capfd.readouterr().out)
    assert info["bank_problem"] is None
    for name in ("bank", "portrait", "sound", "frames_folder"):
        assert Path(info[name]).is_relative_to(tmp_path / "there"), name
    assert run("shot", "render", tmp_path / "there" / "shot", "--threads", 1) == 0
    assert pictures(tmp_path / "there" / "output" / "frames") == expected


def test_a_bundle_takes_only_the_footage_that_the_shot_was_made_with(dub_shot, tmp_path, capfd):
    """The shot.json of a stranger may name any file as its plate."""
    shot = dub_shot(3)
    secret = tmp_path / "secret" / "diary.txt"
    secret.parent.mkdir()
    secret.write_text("nobody's business")
    data = json.loads((shot / "shot.json").read_text())
    data["plate"]["media"] = str(secret)
    (shot / "shot.json").write_text(json.dumps(data))
    assert run("shot", "bundle", shot, "--out", tmp_path / "job") == 2
    assert "diary.txt has changed since the shot was made" in capfd.readouterr().err
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_bundle_of_a_dubbed_shot_can_be_moved(dub_shot, tmp_path, direct, monkeypatch, capfd, links):
    shot = dub_shot(8)
    expected = direct(shot)
    assert len(expected) == 8, "each frame is one of its own, also where coefficients hold"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    bundle(shot, tmp_path / "here" / "job", "--chunk", 3)
    shutil.rmtree(shot)
    (tmp_path / "rushes.mp4").unlink()
    (tmp_path / "here" / "job").rename(tmp_path / "there")
    capfd.readouterr()
    assert run("shot", "info", tmp_path / "there" / "shot") == 0
    info = json.loads(capfd.readouterr().out)
    assert (info["bank_problem"], info["plate_problem"], info["frames_without_face"]) == (None, None, "103")
    assert Path(info["plate"]).is_relative_to(tmp_path / "there")
    for chunk in ("107-108", "101-103", "104-106"):
        assert run("shot", "render", tmp_path / "there" / "shot", "--frames", chunk, "--threads", 1) == 0
    assert pictures(tmp_path / "there" / "output" / "frames") == expected
    assert run("shot", "encode", tmp_path / "there" / "shot", "--out", tmp_path / "dub.mp4") == 0
    count, rate, _, sound = media_lengths(tmp_path / "dub.mp4")
    assert (count, float(rate)) == (8, FPS)
    assert sound == pytest.approx(8 / FPS, abs=0.03)


def test_existing_frames_are_included_and_kept(make_shot, tmp_path):
    shot = make_shot(12)
    assert run("shot", "render", shot, "--frames", "101-104") == 0
    there = pictures(tmp_path / "frames")
    frames = bundle(shot, tmp_path / "job") / "output" / "frames"
    assert pictures(frames) == there
    assert all((frames / name).samefile(tmp_path / "frames" / name) for name in there)
    again = make_shot(12, coefficients=Shot.read(shot).coefficients[2:])  # the artist cut two frames off
    bundle(again, tmp_path / "job")
    assert pictures(frames) == there


def test_a_bundle_can_be_written_again(make_shot, tmp_path):
    job = bundle(make_shot(6), tmp_path / "job")
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file()}
    bundle(job / "shot", job)
    assert {path: path.read_bytes() for path in job.rglob("*") if path.is_file()} == before


def test_keep_bank_refers_to_the_bank_by_its_path(make_shot, inputs, tmp_path):
    job = bundle(make_shot(6), tmp_path / "job", "--keep-bank")
    assert not list(job.rglob("*.safetensors"))
    assert Shot.read(job / "shot").bank == inputs / "bank.safetensors"
    assert read(job, "asset_references")["assetReferences"]["referencedPaths"] == [str(inputs / "bank.safetensors")]


def test_audio_replaces_the_sound_or_leaves_it_out(make_shot, inputs, tmp_path):
    shutil.copy(inputs / "line.wav", tmp_path / "other take.wav")
    job = bundle(make_shot(6), tmp_path / "job", "--audio", tmp_path / "other take.wav")
    assert Shot.read(job / "shot").sound == job / "shot" / "other take.wav"
    job = bundle(make_shot(6), tmp_path / "silent", "--audio", "none")
    assert Shot.read(job / "shot").sound is None


def test_a_wrong_or_missing_bank(make_shot, inputs, tmp_path):
    found = Shot.read(make_shot(4))
    for changes, expected in (
        ({"bank_sha256": "ab" * 32}, "is not the bank"),
        ({"bank": tmp_path / "no.safetensors"}, "does not exist"),
    ):
        with pytest.raises(EDTalkError, match=expected):
            write_bundle(Shot(**(vars(found) | changes)), tmp_path / "job", Job("x"))
        assert not (tmp_path / "job").exists()
    (tmp_path / "file").touch()
    assert run("shot", "bundle", make_shot(4), "--out", tmp_path / "file") == 2
    assert run("shot", "bundle", make_shot(4), "--out", tmp_path / "file" / "job") == 3


def test_parameter_values_match_the_template(make_shot, tmp_path):
    """The requirements of Deadline Cloud's loader."""
    job = bundle(make_shot(10), tmp_path / "job", "--chunk", 4, "--engine", "/e/bin/python", "--engine-folder", "/e/x")
    defined = {one["name"]: one for one in read(job, "template")["parameterDefinitions"]}
    values = {one["name"]: one["value"] for one in read(job, "parameter_values")["parameterValues"]}
    assert {name for name in values if not name.startswith("deadline:")} == set(defined) - {"Shot", "OutDir"}
    assert all(values[name] == defined[name]["default"] for name in values if name in defined)
    assert {name for name in values if name.startswith("deadline:")} <= {
        f"deadline:{name}" for name in ("targetTaskRunStatus", "priority", "maxFailedTasksCount", "maxRetriesPerTask")
    }
    for name, flow in (("Shot", "IN"), ("OutDir", "OUT")):
        one = defined[name]
        assert (one["type"], one["objectType"], one["dataFlow"]) == ("PATH", "DIRECTORY", flow)
        assert (job / one["default"]).is_dir()
        assert not Path(one["default"]).is_absolute()
    assert (values["Frames"], values["ChunkSize"]) == ("101-110", 4)
    assert (values["Engine"], values["EngineFolder"]) == ("/e/bin/python", "/e/x")


def test_gpu_requirement(make_shot):
    shot = Shot.read(make_shot(4))
    render, encode = template(shot, Job("x", gpus=2))["steps"]
    assert render["hostRequirements"] == {"amounts": [{"name": "amount.worker.gpu", "min": 2}]}
    assert "hostRequirements" not in encode
    assert encode["dependencies"] == [{"dependsOn": "Render"}]
    assert all("hostRequirements" not in step for step in template(shot, Job("x"))["steps"])
    for step in (render, encode):
        action = step["script"]["actions"]["onRun"]
        assert action["timeout"] == 3600
        assert action["cancelation"] == {"mode": "NOTIFY_THEN_TERMINATE", "notifyPeriodInSeconds": 30}


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"timeout": 0}, {"gpus": -1}])
def test_invalid_jobs(wrong):
    with pytest.raises(EDTalkError, match="must be above 0"):
        Job("x", **wrong)


# ------------------------------------------------------------------------------------------------ openjd


NAMES = ["Anna", 'Müller: "shot" 12/13', "{{Param.Frames}} $(id)", "  tabs\tand\nlines ", "", "漢字", "x" * 300]


@needs_openjd
@pytest.mark.parametrize("gpus", [0, 1])
def test_openjd_accepts_the_template(make_shot, tmp_path, gpus):
    words = ["--gpus", gpus] if gpus else []
    for index, name in enumerate(NAMES if not gpus else NAMES[:1]):
        job = bundle(make_shot(6), tmp_path / f"job{index}", f"--name={name}", *words)
        answer = openjd("check", job / "template.json")
        assert answer.returncode == 0, answer.stdout
        assert Path(Job(name).clip).name == Job(name).clip


@needs_openjd
@pytest.mark.parametrize(("first", "frames"), [(101, 20), (1, 1), (-7, 15)])
def test_openjd_chunks_are_valid_frame_ranges(make_shot, tmp_path, first, frames):
    shot = make_shot(frames, first_frame=first)
    log = tmp_path / "log"
    job = bundle(shot, tmp_path / "job", "--chunk", 6, *recorder(tmp_path, log))
    answer = openjd("run", job / "template.json", "--step", "Render")
    assert answer.returncode == 0, answer.stdout
    commands = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(commands) == -(-frames // 6)
    for words in commands:
        assert words[:3] == ["-X", "utf8", f"{ROOT}/inference"]
        assert run(*words[3:], "--threads", 1) == 0
    assert Shot.read(job / "shot").missing() == []


def recorder(folder: Path, log: Path) -> list[object]:
    """An engine that only records its arguments."""
    program = folder / "recorder"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nopen({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return ["--engine", program]


@needs_openjd
@pytest.mark.skipif(os.name == "nt", reason="the engine that is killed is a shell script")
def test_chunks_equal_the_direct_render_even_if_one_is_killed(inputs, tmp_path, direct):
    """In a folder with special characters in its name."""
    bank = read_bank(inputs / "bank.safetensors")
    rows = np.random.default_rng(5).standard_normal((250, len(bank.names)))
    home = tmp_path / "it's $HOME; Müller"
    shot = Shot(bank.path, bank.sha256, inputs / "portrait.png", "none", Coefficients(rows, bank.names, FPS),
                tmp_path / "frames", sound=inputs / "line.wav")  # fmt: skip
    shot.write(home / "shot")
    expected = direct(home / "shot")
    assert len(expected) == 250

    pid = tmp_path / "pid"
    engine = tmp_path / "engine.sh"
    engine.write_text(f'#!/bin/sh\necho $$ >"{pid}"\nexec "{sys.executable}" "$@"\n')
    engine.chmod(0o755)
    job = bundle(home / "shot", home / "job", "--chunk", 50, "--device", "cpu", "--engine", engine, "--name", "Müller")
    frames = job / "output" / "frames"

    # Whole from the start, and killed while its third chunk is being rendered.
    command = [OPENJD, "run", job / "template.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        until = time.monotonic() + PATIENCE
        while len(os.listdir(frames)) <= 110:
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        output, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode != 0
    assert "exit code: -9" in output.lower() or "-9" in output
    before = pictures(frames)
    assert 100 < len(before) < 250
    assert before.items() <= expected.items(), "nothing torn, nothing else"
    assert not list((job / "output").glob("*.mp4"))

    times = {name: (frames / name).stat().st_mtime_ns for name in before}
    answer = openjd("run", job / "template.json")
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert "Chunks run: 6" in answer.stdout, "five of frames, and the clip"
    assert pictures(frames) == expected
    assert {name: (frames / name).stat().st_mtime_ns for name in before} == times, "finished frames are left"
    count, rate, _, sound = media_lengths(job / "output" / "Müller.mp4")
    assert (count, float(rate)) == (250, FPS)
    assert sound == pytest.approx(250 / FPS, abs=0.03)


@needs_openjd
def test_a_dubbed_shot_runs(dub_shot, tmp_path, direct):
    shot = dub_shot(9)
    expected = direct(shot)
    job = bundle(shot, tmp_path / "job", "--chunk", 3, "--device", "cpu")
    answer = openjd("run", job / "template.json")
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert pictures(job / "output" / "frames") == expected
    assert media_lengths(job / "output" / "job.mp4")[0] == 9


@needs_openjd
def test_errors_are_shown_with_the_task(make_shot, tmp_path):
    job = bundle(make_shot(4), tmp_path / "job")
    answer = openjd("run", job / "template.json", "--step", "Encode")
    assert answer.returncode != 0
    assert "openjd_fail: 4 of 4 frames are not rendered yet: 101-104." in answer.stdout
