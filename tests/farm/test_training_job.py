"""Farm jobs of trainings: content, validation by the openjd tool, and running them with it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference.contract.errors import EDTalkError
from inference.contract.farm import Job
from inference.contract.training import FOOTAGE, PERSON, Settings
from inference.contract.training_farm import training_template, write_training_bundle
from tests.cli_material import ROOT
from tests.farm.test_bundle import needs_openjd, openjd, read


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    clips = tmp_path / "footage of Anna & Ben"
    prepared = "anna.work/footage/take_000/frames.mkv"  # of an earlier training
    for name in ("anna/one.mp4", "anna/two.MOV", "ben/one.mp4", "notes.txt", prepared):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).write_bytes(name.encode())
    return Settings(FOOTAGE, (str(clips),), str(tmp_path / "anna.safetensors"), 256, 300.0, consent=True, threads=8)


@pytest.fixture
def tuning(settings, tmp_path) -> Settings:
    bank = tmp_path / "old.safetensors"
    bank.write_bytes(b"a bank")
    return replace(settings, kind=PERSON, bank=str(bank))


def job(**options: object) -> Job:
    return Job("Train {Anna}", **options)  # type: ignore[arg-type]


def test_the_bundle_contains_the_clips_by_person(settings, tmp_path):
    folder = tmp_path / "job"
    assert write_training_bundle(settings, folder, job()) == 3
    clips = {path.relative_to(folder / "clips").as_posix() for path in (folder / "clips").rglob("*.*")}
    assert clips == {"anna/one.mp4", "anna/two.MOV", "ben/one.mp4"}
    assert str(tmp_path) not in json.dumps(read(folder, "template")["parameterDefinitions"][:4]), "it can be moved"
    assert write_training_bundle(settings, folder, job()) == 3, "it can be written again"


def test_the_bank_to_tune_is_included(tuning, tmp_path):
    write_training_bundle(tuning, tmp_path / "job", job())
    assert (tmp_path / "job" / "bank.safetensors").read_bytes() == b"a bank"


def test_what_is_refused(settings, tmp_path):
    with pytest.raises(EDTalkError, match="you may use the recordings"):
        write_training_bundle(replace(settings, consent=False), tmp_path / "job", job())
    (tmp_path / "empty").mkdir()
    with pytest.raises(EDTalkError, match="No clip was found"):
        write_training_bundle(replace(settings, clips=(str(tmp_path / "empty"),)), tmp_path / "job", job())
    assert not (tmp_path / "job").exists()


def test_the_job_asks_for_its_gpus_and_enough_time(settings):
    (step,) = training_template(settings, job(gpus=2))["steps"]
    assert step["hostRequirements"]["amounts"] == [{"name": "amount.worker.gpu", "min": 2}]
    assert step["script"]["actions"]["onRun"]["timeout"] > 60 * settings.minutes
    assert "hostRequirements" not in training_template(settings, job())["steps"][0]


@pytest.mark.slow
@needs_openjd
@pytest.mark.parametrize("kind", [FOOTAGE, PERSON])
def test_openjd_accepts_and_runs_the_job(settings, tuning, tmp_path, kind):
    """With a fake training, which shows that the command is complete and its paths are right."""
    made = settings if kind == FOOTAGE else tuning
    extension = tmp_path / "extension"
    (extension / "training").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "fake_training.py", extension / "training" / "__main__.py")
    write_training_bundle(made, tmp_path / "a job", job(engine=sys.executable, engine_folder=str(extension)))
    folder = tmp_path / "moved"
    (tmp_path / "a job").rename(folder)
    checked = openjd("check", folder / "template.json")
    assert checked.returncode == 0, checked.stdout
    work = folder / "output" / "anna.work"
    work.mkdir(parents=True)
    (work / "FINISH").touch()
    ran = openjd("run", folder / "template.json")
    assert ran.returncode == 0, ran.stdout
    assert (folder / "output" / "anna.safetensors").is_file()
    assert json.loads((work / "status.json").read_text())["state"] == "done"
