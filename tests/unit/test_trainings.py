"""Trainings outside Blender: start, state, stop, resume, and how they are found again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from edtalk.edtalk_blender.training import check, detached, jobs
from edtalk.edtalk_blender.training.jobs import Job, Jobs, State
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.training import FOOTAGE, PERSON, Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds; only a failing test waits so long


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in which `python -m training` runs the fake."""
    folder = tmp_path / "extension"
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "fake_training.py", folder / "training.py")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a training, which is killed at the end."""
    (tmp_path / "clips").mkdir()
    made = Settings(FOOTAGE, (str(tmp_path / "clips"),), str(tmp_path / "anna.safetensors"), 64, consent=True)
    yield made
    if (made.work / "job.json").exists():
        jobs.kill(jobs.read(made.work))


def launch(settings: Settings, root: Path) -> None:
    jobs.launch(settings, Path(sys.executable), root)


def wait(folder: Path, condition: Callable[[Job], object]) -> Job:
    until = time.monotonic() + PATIENCE
    while not condition(job := jobs.read(folder)):
        assert time.monotonic() < until, job
        time.sleep(0.01)
    return job


def test_a_training_is_started_stopped_and_resumed(settings, root):
    launch(settings, root)
    job = wait(settings.work, lambda job: job.state is State.RUNNING)
    assert (job.name, job.settings, job.psnr, job.share) == ("anna", settings, 21.5, 0.25)
    assert job.sheet is not None
    jobs.stop(job)
    job = wait(settings.work, lambda job: not job.state.is_active)
    assert (job.state, job.bank) == (State.STOPPED, Path(settings.out))
    launch(job.settings, root)
    job = wait(settings.work, lambda job: job.state is State.RUNNING)
    (settings.work / "FINISH").touch()
    job = wait(settings.work, lambda job: not job.state.is_active)
    assert (job.state, job.share) == (State.DONE, 1.0)


def test_it_outlives_the_process_that_started_it(settings, root):
    program = (
        "import sys, types; sys.path.insert(0, sys.argv[1])\n"
        "package = sys.modules['edtalk'] = types.ModuleType('edtalk'); package.__path__ = [sys.argv[1]]\n"
        "from edtalk.edtalk_blender.training import jobs\n"
        "from edtalk.inference.contract.training import Settings\n"
        "import json, pathlib\n"
        "made = Settings.from_json(json.loads(sys.argv[2]))\n"
        "jobs.launch(made, pathlib.Path(sys.executable), pathlib.Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-B", "-c", program, str(ROOT), json.dumps(settings.to_json()), str(root)]
    subprocess.run(command, check=True, start_new_session=True)
    job = wait(settings.work, lambda job: job.state is State.RUNNING)
    assert wait(settings.work, lambda later: later.step > job.step).state is State.RUNNING


def test_a_killed_training_is_interrupted_and_goes_on(settings, root):
    launch(settings, root)
    jobs.kill(wait(settings.work, lambda job: job.state is State.RUNNING))
    job = wait(settings.work, lambda job: not job.state.is_active)
    assert job.state is State.INTERRUPTED
    launch(job.settings, root)
    assert wait(settings.work, lambda job: job.state is State.RUNNING)


def test_a_failure_is_explained(settings, root):
    launch(settings, root)
    wait(settings.work, lambda job: job.state is State.RUNNING)
    (settings.work / "FAIL").touch()
    job = wait(settings.work, lambda job: not job.state.is_active)
    assert job.state is State.FAILED
    assert (job.sentence, job.hint) == ("The training became unstable.", "Choose other clips.")


def test_a_training_that_does_not_start_shows_its_last_words(settings, root):
    launch(replace(settings, consent=False), root)
    job = wait(settings.work, lambda job: not job.state.is_active)
    assert job.state is State.FAILED
    assert "need the option --consent" in job.sentence


def test_the_state_of_an_earlier_process_is_not_that_of_a_new_one(settings, root):
    launch(settings, root)
    wait(settings.work, lambda job: job.state is State.RUNNING)
    (settings.work / "FINISH").touch()
    wait(settings.work, lambda job: job.state is State.DONE)
    (root / "training.py").write_text("import time; time.sleep(1000)")
    launch(settings, root)
    assert jobs.read(settings.work).state is State.STARTING


def test_another_program_with_the_same_number_is_not_the_training(settings, root):
    launch(settings, root)
    wait(settings.work, lambda job: job.state is State.RUNNING)
    path = settings.work / "job.json"
    data = json.loads(path.read_text())
    assert detached.is_running(data["pid"], data["started"])
    assert not detached.is_running(os.getpid(), data["started"])
    path.write_text(json.dumps(data | {"pid": os.getpid()}))
    assert jobs.read(settings.work).state is State.INTERRUPTED
    jobs.kill(jobs.read(settings.work))  # does not end these tests
    path.write_text(json.dumps(data))
    assert jobs.read(settings.work).state is State.RUNNING


def test_a_training_of_another_computer_runs_as_long_as_it_writes(settings, root):
    launch(settings, root)
    wait(settings.work, lambda job: job.state is State.RUNNING)
    path, status = settings.work / "job.json", settings.work / "status.json"
    there = json.loads(path.read_text()) | {"host": "render7", "pid": 1, "started": "then"}
    jobs.kill(jobs.read(settings.work))
    wait(settings.work, lambda job: not job.state.is_active)
    path.write_text(json.dumps(there))
    said = json.loads(status.read_text())
    status.write_text(json.dumps(said | {"updated": time.time() + 1000.0}))
    assert jobs.read(settings.work).state is State.RUNNING
    status.write_text(json.dumps(said | {"updated": time.time() - 1000.0}))
    assert jobs.read(settings.work).state is State.INTERRUPTED


def test_a_folder_can_be_moved(settings, root, tmp_path):
    launch(settings, root)
    wait(settings.work, lambda job: job.state is State.RUNNING)
    (settings.work / "FINISH").touch()
    wait(settings.work, lambda job: job.state is State.DONE)
    moved = settings.work.rename(tmp_path / "ben.work")
    assert jobs.read(moved).settings.out == str(tmp_path / "ben.safetensors")


def test_what_cannot_be_started(settings, root, tmp_path):
    jobs.check_new(settings)
    with pytest.raises(EDTalkError, match="you may use the recordings"):
        jobs.check_new(replace(settings, consent=False))
    with pytest.raises(EDTalkError, match="does not exist"):
        jobs.check_new(replace(settings, out=str(tmp_path / "none" / "anna.safetensors")))
    (tmp_path / "old.safetensors").touch()
    with pytest.raises(EDTalkError, match="exists already"):
        jobs.check_new(replace(settings, out=str(tmp_path / "old.safetensors")))
    launch(settings, root)
    job = wait(settings.work, lambda job: job.state is State.RUNNING)
    with pytest.raises(EDTalkError, match="being trained already"):
        jobs.check_new(settings)
    jobs.stop(job)
    wait(settings.work, lambda job: not job.state.is_active)
    jobs.check_new(replace(settings, minutes=900.0))  # more time for the same training
    with pytest.raises(EDTalkError, match="other clips or settings"):
        jobs.check_new(replace(settings, size=128))


def test_the_list_of_trainings(settings, root, tmp_path):
    listed = Jobs(tmp_path / "user" / "trainings.json")
    assert listed.refresh() == ()
    listed.index.parent.mkdir()
    launch(settings, root)
    listed.add(tmp_path / "gone.work")
    listed.add(settings.work)
    again = Jobs(listed.index)  # of another Blender
    assert [job.name for job in again.refresh()] == ["anna"], "a folder that is not there is skipped"
    assert again.folders() == [settings.work, tmp_path / "gone.work"]
    again.remove(settings.work)
    assert listed.refresh() == ()
    assert settings.work.is_dir(), "the files are kept"


@pytest.mark.parametrize("content", ["", "[]", '{"folders": 3}', '{"folders": [1, null]}', "{"])
def test_a_damaged_list_is_empty(tmp_path, content):
    listed = Jobs(tmp_path / "trainings.json")
    listed.index.write_text(content)
    assert listed.refresh() == ()


@pytest.mark.parametrize("change", [
    {"format": 99}, {"settings": {}}, {"settings": None}, {"pid": "x"}, {"launched": []},
])  # fmt: skip
def test_a_damaged_job_is_refused(settings, root, change):
    launch(settings, root)
    path = settings.work / "job.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | change))
    with pytest.raises(EDTalkError):
        jobs.read(settings.work)
    path.write_text(json.dumps(data))


def test_settings_become_a_command_and_back(settings):
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert {"--size", "--start", "--consent"} <= set(settings.words())
    tuned = replace(settings, kind=PERSON, bank="b.safetensors", consent=False)
    assert not {"--size", "--start", "--consent"} & set(tuned.words())
    with pytest.raises(EDTalkError, match="kind"):
        Settings.from_json(settings.to_json() | {"kind": "heads"})


def test_a_check_reports_what_is_usable(settings, root):
    made = check.Check(settings, Path(sys.executable), root)
    made.start()
    made.wait()
    assert made.error is None
    assert not settings.work.exists(), "a check alone leaves nothing"
    lines = "\n".join(check.lines(made.report, lambda seconds: f"{seconds:.0f} s"))
    for words in ("about 48 s of 60 s", "turned away 20 %", "empty.mp4 is empty", "7680 s", "15,000", "40 MB"):
        assert words in lines


def test_a_check_that_fails_says_why(settings, root):
    (root / "training.py").write_text("raise SystemExit('No module named torch')")
    made = check.Check(settings, Path(sys.executable), root)
    made.start()
    made.wait()
    assert made.error is not None
    assert "No module named torch" in made.error.message
