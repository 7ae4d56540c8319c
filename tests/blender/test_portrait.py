"""Measuring portraits: requested once, and applied only if the portrait is still the same."""

from types import SimpleNamespace

import bpy
import numpy as np
import pytest


@pytest.fixture
def requested(package, addon, monkeypatch):
    """Requests to an engine that answers only on `requested[-1].answer(jawOpen=0.25)`."""
    questions = []

    def submit(request, *, label, on_done):
        def answer(**rest):
            task.finished = True
            pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
            on_done(addon.inference.contract.answers.PortraitResult(rest, "none", 0.0, pixels))

        def cancel():
            task.finished = task.cancelled = True

        task = SimpleNamespace(request=request, label=label, finished=False, cancelled=False, error=None, cancel=cancel)
        task.answer = answer
        questions.append(task)
        return task

    monkeypatch.setattr(package.engine.session, "submit", submit)
    return questions


def test_choosing_a_portrait_measures_it(package, obj, requested, demo):
    package.character.rest_pose.measure(obj)
    (question,) = requested
    bank = package.character.files.bank_of(obj)
    assert question.request.kind == "portrait"
    assert question.request.to_message(1).fields == {
        "bank": str(bank.path),
        "picture": str(demo / "portrait_1.png"),
        "crop": "auto",
    }
    obj.edtalk.crop_mode, obj.edtalk.crop = "box", (1.0, 2.0, 64.0)
    package.character.rest_pose.measure(obj)
    assert requested[-1].request.crop == (1.0, 2.0, 64.0)


def test_the_result_is_applied_once(package, obj, requested):
    assert not package.character.rest_pose.is_known(obj)
    task = package.character.rest_pose.measure(obj)
    assert package.character.rest_pose.measure(obj) == task, "the running task"
    requested[0].answer(jawOpen=0.25, headYaw=-0.5)
    assert (obj.edtalk["jawOpen"], obj.edtalk["headYaw"]) == (0.25, -0.5)
    assert package.character.rest_pose.is_known(obj)
    assert len(requested) == 1
    assert obj.data == package.character.viewport.face_image(obj), "the measured face is shown"


def test_changing_the_portrait_replaces_the_measurement(package, obj, requested, demo):
    package.character.rest_pose.measure(obj)
    obj.edtalk.portrait = str(demo / "portrait_2.png")
    package.character.rest_pose.measure(obj)
    first, second = requested
    assert first.cancelled
    first.answer(jawOpen=0.25)
    assert obj.edtalk["jawOpen"] == 0.0, "an outdated result is dropped"
    second.answer(jawOpen=0.5)
    assert obj.edtalk["jawOpen"] == 0.5
    obj.edtalk.portrait = str(demo / "portrait_1.png")
    assert not package.character.rest_pose.is_known(obj)


def test_the_character_may_be_renamed_or_deleted_before_the_result_arrives(package, scene, obj, requested):
    import bpy

    package.character.rest_pose.measure(obj)
    obj.name = "Somebody"
    requested[0].answer(jawOpen=0.25)
    assert obj.edtalk["jawOpen"] == 0.25
    other = package.character.character.create(scene, obj.edtalk.portrait)
    package.character.rest_pose.measure(other)
    bpy.data.objects.remove(other)
    requested[1].answer(jawOpen=0.75)
    assert obj.edtalk["jawOpen"] == 0.25


def test_measuring_a_missing_portrait_is_an_error(addon, package, scene, requested, demo, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes((demo / "portrait_1.png").read_bytes())
    obj = package.character.character.create(scene, str(path))
    path.unlink()
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="does not exist"):
        package.character.rest_pose.measure(obj)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="does not exist"):
        package.character.rest_pose.is_known(obj)
    assert requested == []


def test_with_a_window_a_chosen_portrait_is_measured_at_once(package, obj, requested, demo, monkeypatch):
    obj.edtalk.portrait = str(demo / "portrait_2.png")
    assert requested == [], "without a window nothing is requested yet"
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    obj.edtalk.portrait = str(demo / "portrait_1.png")
    obj.edtalk.crop_mode = "none"
    assert [task.request.crop for task in requested] == ["auto", "none"]
    assert [task.cancelled for task in requested] == [True, False]


@pytest.mark.parametrize("letters", [251, 240, 100, 60])
def test_a_portrait_with_a_long_name_is_rendered(package, scene, demo, tmp_path, fake_engine, letters):
    fake_engine()
    work, pictures = tmp_path / "work", tmp_path / "pictures"
    work.mkdir()
    pictures.mkdir()
    picture = pictures / ("p" * letters + ".png")
    picture.write_bytes((demo / "portrait_1.png").read_bytes())
    bpy.ops.wm.save_as_mainfile(filepath=str(work / "n.blend"))
    scene = bpy.context.scene
    scene.frame_start = scene.frame_end = 1
    obj = package.character.character.create(scene, str(picture))
    (plan,) = package.cli.render_faces(scene, [obj], "SCENE").values()
    assert plan.missing == 1
    written = [path.relative_to(work) for path in work.rglob("*")]
    assert max(len(str(path)) for path in written) < 200, "leaves 59 letters for the project's folder in Windows"
