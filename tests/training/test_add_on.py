"""What the add-on and farm jobs expect of a training: its options, its files, and what it prints."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from inference.contract.farm import Job
from inference.contract.training import FOOTAGE, PERSON, SIZES, Settings
from inference.contract.training_farm import training_template
from tests.cli_material import ROOT
from training.learning.watch import Watch, read_status
from training.stages import footage, person

PLANNED = {"prepare": None, "self": 30.0, "finish": None}


@pytest.fixture(params=[FOOTAGE, PERSON])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return Settings(
        request.param, (str(tmp_path / "clips"),), str(tmp_path / "a.safetensors"), 64, 30.0, "b", "none", True
    )


def parsed(words: list[str]) -> argparse.Namespace:
    kind, *rest = words
    parser = argparse.ArgumentParser()
    (footage if kind == FOOTAGE else person).add_options(parser)
    return parser.parse_args(rest)


def test_the_training_understands_the_settings(settings: Settings) -> None:
    args = parsed([*settings.words(), "--check"])
    assert (args.out, args.work, args.minutes) == (Path(settings.out), settings.work, settings.minutes)
    assert (args.consent, args.check, args.threads) == (True, True, 1)
    for size in SIZES:
        parsed(replace(settings, size=size).words())


def test_the_training_understands_the_farm_job(settings: Settings) -> None:
    template = training_template(settings, Job("job"))
    (step,) = template["steps"]
    words = step["script"]["actions"]["onRun"]["args"]
    defaults = {f"{{{{Param.{one['name']}}}}}": str(one["default"]) for one in template["parameterDefinitions"]}
    for name, value in defaults.items():
        words = [word.replace(name, value) for word in words]
    assert words[2] == f"{ROOT}/training"
    args = parsed(words[3:])
    assert (args.progress, args.consent, args.minutes) == ("openjd", True, 30.0)
    assert args.out == Path("output", "a.safetensors")


def test_progress_and_failure_for_a_farm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(tmp_path, FOOTAGE, PLANNED, openjd=True) as watch:
        watch.at("self", 1.0)
        watch.end("failed", "Nobody speaks\nin these clips.", "Give others.")
    lines = capsys.readouterr().out.splitlines()
    assert f"openjd_progress: {100 * watch.state['share']:.1f}" in lines
    assert "openjd_fail: Nobody speaks in these clips. Give others." in lines
    with Watch(tmp_path, FOOTAGE, PLANNED):
        pass
    assert capsys.readouterr().out == ""


def test_the_fake_training_writes_the_same_fields(tmp_path: Path) -> None:
    with Watch(tmp_path, FOOTAGE, PLANNED):
        real = read_status(tmp_path)
    shutil.copy(ROOT / "tests" / "fake_training.py", tmp_path / "training.py")
    settings = Settings(FOOTAGE, ("clips",), str(tmp_path / "a.safetensors"), consent=True)
    settings.work.mkdir()
    (settings.work / "FINISH").touch()
    for more in ([], ["--check"]):
        command = [sys.executable, "-m", "training", *settings.words(), *more]
        subprocess.run(command, cwd=tmp_path, check=True)
    fake = read_status(settings.work)
    assert {name: type(value) for name, value in fake.items() if value is not None}.items() >= {
        name: type(value) for name, value in real.items() if value is not None and name != "minutes_left"
    }.items()
    assert set(fake) == set(real)
    checked = json.loads((settings.work / "check.json").read_text())
    assert checked["ok"]
