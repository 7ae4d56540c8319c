"""Banks from footage in Blender: settings, check, list of trainings, and the use of a trained bank."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import bpy
import pytest

from tests.panel_layout import draw

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds; only a failing test waits so long
BANKS = {"lip": ("lip_01", "lip_02"), "pose": ("pose_01",), "exp": ("exp_01", "exp_02")}


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "anna"
    folder.mkdir()
    (folder / "take.mp4").write_bytes(b"movie")
    return folder


@pytest.fixture
def trainings(package, tmp_path, monkeypatch, write_bank):
    """The module, with `tests/fake_training.py` in the place of the training and a list of its own."""
    module, jobs = package.training.trainings, package.training.jobs
    shutil.copy(ROOT / "tests" / "fake_training.py", tmp_path / "training.py")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("FAKE_BANK", str(write_bank("trained", banks=BANKS)))
    found = package.engine.engine.Engine(package.engine.engine.State.READY, ROOT, Path(sys.executable))
    monkeypatch.setattr(package.engine.session, "find_engine", lambda: found)
    module._state.jobs = jobs.Jobs(tmp_path / "trainings.json")
    package.training.sheet.unregister()
    package.training.sheet.register()  # without the sheets of other tests
    yield module
    for job in module.all_jobs().refresh():
        jobs.kill(job)
    module.draft().shown = False
    module.cancel_check()
    vars(module._state).update(vars(module._State()))


@pytest.fixture
def running(trainings, clips) -> Path:
    """The folder of a training that runs."""
    bpy.ops.edtalk.new_bank_from_footage(directory=str(clips))
    trainings.draft().consent = True
    assert bpy.ops.edtalk.train_bank() == {"FINISHED"}
    folder = clips.with_suffix(".work")
    wait(trainings, folder, "RUNNING")
    return folder


def wait(trainings, folder: Path, state: str) -> None:
    """Until the timer has seen a state."""
    until = time.monotonic() + PATIENCE
    while not any(job.folder == folder and job.state.name == state for job in trainings.found()):
        assert time.monotonic() < until, trainings.found()
        trainings._tick()
        time.sleep(0.01)
    trainings._tick()


def buttons(package) -> list[str]:
    layout = draw(package.panels.training.EDTALK_PT_training)
    return [] if layout is None else layout.texts("operator")


def texts(package) -> str:
    layout = draw(package.panels.training.EDTALK_PT_training)
    return " ".join(layout.texts("label") + layout.texts("progress"))


def test_the_panel_appears_with_the_clips(package, trainings, clips):
    assert buttons(package) == []
    assert bpy.ops.edtalk.new_bank_from_footage(directory=str(clips)) == {"FINISHED"}
    given = trainings.draft()
    assert Path(given.clips) == clips
    assert Path(given.out) == clips.with_suffix(".safetensors")
    assert {"edtalk.check_footage", "edtalk.train_bank"} <= set(buttons(package))
    assert bpy.ops.edtalk.close_training_settings() == {"FINISHED"}
    assert buttons(package) == []


def test_a_folder_is_required(trainings, tmp_path):
    with pytest.raises(RuntimeError, match="is not a folder"):
        bpy.ops.edtalk.new_bank_from_footage(directory=str(tmp_path / "none"))


def test_the_file_is_a_new_one(trainings, clips):
    clips.with_suffix(".safetensors").touch()
    clips.with_name("anna_2.work").mkdir()
    trainings.propose("footage", str(clips))
    assert Path(trainings.draft().out).name == "anna_3.safetensors"


def test_the_check_is_shown_until_the_settings_change(package, trainings, clips):
    bpy.ops.edtalk.new_bank_from_footage(directory=str(clips))
    assert bpy.ops.edtalk.check_footage() == {"FINISHED"}
    assert "about 48 s of 1 min 0 s usable" in texts(package)
    trainings.draft().size = "64"
    assert "usable" not in texts(package)


def test_nothing_is_trained_without_consent(trainings, clips):
    bpy.ops.edtalk.new_bank_from_footage(directory=str(clips))
    assert not bpy.ops.edtalk.train_bank.poll()
    assert not bpy.ops.edtalk.export_training_job.poll()
    trainings.draft().consent = True
    assert bpy.ops.edtalk.train_bank.poll()
    bpy.ops.edtalk.new_bank_from_footage(directory=str(clips))
    assert not trainings.draft().consent, "it is asked for again"


def test_size_and_start(trainings, clips):
    trainings.propose("footage", str(clips))
    trainings.draft().size = "128"
    assert trainings.settings().start == "starter"
    trainings.draft().size = "64"
    assert trainings.settings().start == "none"


def test_a_training_is_found_in_another_file_and_after_a_restart(package, trainings, running):
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    index = trainings.all_jobs().index
    vars(trainings._state).update(vars(trainings._State()))  # as after quitting and starting Blender
    trainings._state.jobs = package.training.jobs.Jobs(index)
    wait(trainings, running, "RUNNING")
    assert "held-out frames 21.5 dB" in texts(package)
    assert "edtalk.stop_training" in buttons(package)


def test_stop_go_on_and_done(package, trainings, running):
    assert trainings.is_active()
    assert bpy.ops.edtalk.stop_training(folder=str(running)) == {"FINISHED"}
    wait(trainings, running, "STOPPED")
    assert {"edtalk.resume_training", "edtalk.use_trained_bank"} <= set(buttons(package))
    assert bpy.ops.edtalk.resume_training(folder=str(running)) == {"FINISHED"}
    wait(trainings, running, "RUNNING")
    (running / "FINISH").touch()
    wait(trainings, running, "DONE")
    assert "The bank anna is trained" in package.engine.session.notices
    package.engine.session.dismiss()
    package.engine.session.notices.clear()


def test_a_failure_is_reported_once(package, trainings, running):
    (running / "FAIL").touch()
    wait(trainings, running, "FAILED")
    (problem,) = package.engine.session.problems
    assert "became unstable" in problem.message
    package.engine.session.dismiss()
    trainings._tick()
    assert not package.engine.session.problems


def test_the_engine_is_not_removed_while_a_training_uses_it(package, trainings, running):
    remove = package.engine.operators.EDTALK_OT_uninstall_engine
    assert "The training of anna uses the engine" in remove.disabled_reason(bpy.context)
    bpy.ops.edtalk.stop_training(folder=str(running))
    wait(trainings, running, "STOPPED")
    assert "training" not in remove.disabled_reason(bpy.context)


def test_stop_at_once(trainings, running):
    assert bpy.ops.edtalk.stop_training(folder=str(running), at_once=True) == {"FINISHED"}
    until = time.monotonic() + PATIENCE
    while trainings.find(str(running)).state.is_active:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_use_a_trained_bank_and_name_its_sliders(package, trainings, running, obj, fake_engine):
    fake_engine()
    (running / "FINISH").touch()
    wait(trainings, running, "DONE")
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.edtalk.use_trained_bank(folder=str(running)) == {"FINISHED"}
    assert package.character.files.bank_path(obj) == running.with_suffix(".safetensors")
    assert set(BANKS["lip"]) <= set(package.character.sliders.channel_names(obj))
    session = package.engine.session
    session.wait(*session.tasks)
    assert "jawOpen" in {item.new_name for item in obj.edtalk_naming.sliders}


def test_a_training_without_a_bank_cannot_be_used(package, trainings, running, obj):
    with pytest.raises(RuntimeError, match="has no bank yet"):
        bpy.ops.edtalk.use_trained_bank(folder=str(running))
    assert obj.edtalk.bank == ""
    package.engine.session.dismiss()


def test_remove_from_the_list_keeps_the_files(package, trainings, running):
    bpy.ops.edtalk.stop_training(folder=str(running))
    wait(trainings, running, "STOPPED")
    assert bpy.ops.edtalk.forget_training(folder=str(running)) == {"FINISHED"}
    assert buttons(package) == []
    assert running.is_dir()
    assert running.with_suffix(".safetensors").is_file()


def test_tune_to_this_person(package, trainings, clips, obj, write_bank):
    assert not bpy.ops.edtalk.tune_to_person.poll(), "the starter bank cannot be tuned"
    assert "The bank 'starter' cannot be tuned" in trainings.untunable_reason(obj)
    bank = write_bank("tunable")
    package.character.character.set_bank(obj, str(bank))
    assert bpy.ops.edtalk.tune_to_person(directory=str(clips)) == {"FINISHED"}
    trainings.draft().consent = True
    assert bpy.ops.edtalk.train_bank() == {"FINISHED"}
    folder = clips.with_name("tunable_anna.work")
    wait(trainings, folder, "RUNNING")
    assert trainings.find(str(folder)).settings.bank == str(bank)


def test_the_contact_sheet_is_drawn_again_when_it_changes(package, trainings, running):
    sheet = package.training.sheet
    (job,) = trainings.found()
    assert [preview.image_size[:] for preview in sheet._previews.values()] == [(1, 1)]
    trainings.stop(job)
    wait(trainings, running, "STOPPED")
    image = bpy.data.images.new("other", 12, 6)
    image.filepath_raw, image.file_format = str(job.sheet), "PNG"
    image.save()
    sheet.update([job])
    assert [preview.image_size[:] for preview in sheet._previews.values()] == [(6, 6), (6, 6)]
    assert len(draw(package.panels.training.EDTALK_PT_training).texts("icon")) == 2
    assert not [image for image in bpy.data.images if image.filepath == str(job.sheet) and image.name != "other"]


def test_a_training_becomes_a_farm_job(trainings, clips, tmp_path):
    bpy.ops.edtalk.new_bank_from_footage(directory=str(clips))
    trainings.draft().consent = True
    assert bpy.ops.edtalk.export_training_job(directory=str(tmp_path / "jobs"), gpus=2) == {"FINISHED"}
    assert (tmp_path / "jobs" / "anna" / "template.json").is_file()
    assert (tmp_path / "jobs" / "anna" / "clips" / "take.mp4").read_bytes() == b"movie"
