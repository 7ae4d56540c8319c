"""The Sequencer's sidebar, the status and the preferences."""

import time
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import Layout, draw
from tests.pumping import pump_until
from tests.strip_material import noise, write_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(1.0))


@pytest.fixture
def drawn(package):
    """`drawn("EDTALK_PT_face")`: the layout of a panel, or None if it is hidden."""

    def drawn(name: str) -> Layout | None:
        module = package.panels.sequencer if hasattr(package.panels.sequencer, name) else package.panels.status
        return draw(getattr(module, name))

    return drawn


def labels(layout: Layout) -> str:
    """All labels joined: messages are broken into lines."""
    return " ".join(layout.texts("label"))


@pytest.fixture
def quiet(package):
    """The session without engine and problems."""
    package.engine.session.dismiss()
    package.engine.session.restart()
    return package.engine.session


def test_a_missing_portrait_is_reported_once(drawn, package, obj, quiet, tmp_path):
    """In the 3D View by the panel Character, which has the button; in the Sequencer, which lacks it, by Status."""
    obj.edtalk.portrait_image.filepath = str(tmp_path / "gone.png")
    with pytest.raises(RuntimeError, match=r"gone\.png"):
        bpy.ops.edtalk.render_face(frames="SCENE")
    assert "does not exist" in labels(draw(package.panels.character.EDTALK_PT_character))
    assert "does not exist" not in labels(drawn("EDTALK_PT_status_view"))
    assert "does not exist" in labels(drawn("EDTALK_PT_status_sequencer"))


# --- The Sequencer's panels


def test_without_a_character_the_dialogue_panel_offers_to_add_one(drawn):
    assert "edtalk.add_character" in drawn("EDTALK_PT_dialogue").texts("operator")
    assert drawn("EDTALK_PT_lip_settings") is None


def test_a_selected_sound_has_a_speaker_menu(drawn, package, scene, obj, sound):
    assert drawn("EDTALK_PT_dialogue").texts("menu") == []
    package.compat.new_sound(scene, "line", sound, 1, 1).select = True
    assert drawn("EDTALK_PT_dialogue").texts("menu") == ["EDTALK_MT_speakers"]


def test_problems_of_a_sound_strip_name_it(drawn, package, scene, obj, tmp_path):
    path = write_sound(tmp_path / "line.wav", noise(1.0))
    strip = package.compat.new_sound(scene, "My line", path, 1, 1)
    strip.select = True
    assert "My line" not in labels(drawn("EDTALK_PT_dialogue"))
    strip["edtalk_stale"] = True
    assert "My line" in labels(drawn("EDTALK_PT_dialogue"))
    path.unlink()
    layout = drawn("EDTALK_PT_dialogue")
    assert "file.find_missing_files" in layout.texts("operator")
    assert "line.wav" in labels(layout)


def test_the_face_panel_counts_frames_that_are_not_rendered(drawn, package, scene, obj, fake_engine):
    fake_engine()
    scene.frame_end = 3
    bpy.ops.edtalk.render_face(frames="SCENE")
    bpy.ops.edtalk.render_face(frames="SCENE")  # nothing is left to render, and no task remains
    assert "not rendered" not in labels(drawn("EDTALK_PT_face"))
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    strip.elements[1].filename = "waiting_x.png"
    assert "1 of 3 frames are not rendered" in labels(drawn("EDTALK_PT_face"))


def test_all_characters_is_offered_if_there_are_several(drawn, package, scene, obj):
    assert "everybody" not in drawn("EDTALK_PT_face").texts("prop")
    package.character.character.create(scene, name="Ben")
    assert "everybody" in drawn("EDTALK_PT_face").texts("prop")


# --- Status


def test_each_task_has_progress_and_a_cancel_button(addon, drawn, package, scene, obj, fake_engine):
    fake_engine("--slow", 0.2)
    package.engine.session.dismiss()
    request = addon.inference.contract.requests.Portrait(None, __file__, "none")
    tasks = [package.engine.session.submit(request, label=label) for label in ("Reading one", "Reading two")]
    layout = drawn("EDTALK_PT_status_sequencer")
    assert len(layout.texts("progress")) == 2
    assert layout.texts("progress")[0].startswith("Reading one:")
    assert layout.texts("operator").count("edtalk.cancel") == 3, "one per task, and Cancel All"
    bpy.ops.edtalk.cancel()
    package.engine.session.wait(*tasks)
    assert all(task.cancelled for task in tasks)
    assert drawn("EDTALK_PT_status_view").texts("progress") == []


def test_a_problem_is_shown_once_with_its_fix_until_it_is_dismissed(addon, drawn, package, quiet):
    error = addon.inference.contract.errors.EDTalkError(
        "The engine ran out of memory.", "Close other programs.", "memory"
    )
    quiet.report(error)
    quiet.report(error)
    layout = drawn("EDTALK_PT_status_sequencer")
    assert labels(layout).count("ran out of memory") == 1
    assert "edtalk.restart_engine" in layout.texts("operator")
    assert bpy.ops.edtalk.dismiss() == {"FINISHED"}
    assert "ran out of memory" not in labels(drawn("EDTALK_PT_status_sequencer"))


def test_a_missing_engine_can_be_installed(drawn, package, quiet, monkeypatch):
    engine = package.engine.engine
    missing = engine.Engine(engine.State.MISSING, quiet.ROOT, None, "The engine is not installed.", "Install it.")
    monkeypatch.setattr(quiet, "find_engine", lambda: missing)
    layout = drawn("EDTALK_PT_status_view")
    assert {"edtalk.install_engine", "edtalk.install_engine_from_folder"} <= set(layout.texts("operator"))
    buttons = package.engine.operators
    assert "Online access" in buttons.EDTALK_OT_install_engine.disabled_reason(bpy.context)
    assert buttons.EDTALK_OT_install_engine_from_folder.disabled_reason(bpy.context) == ""


def test_a_running_installation_has_progress_and_disables_others(drawn, package, quiet, monkeypatch):
    running = SimpleNamespace(
        phase="installing packages", done=12, total=48, unit="", finished=False, cancel=lambda: None
    )
    monkeypatch.setattr(package.engine.operators._state, "installation", running)
    layout = drawn("EDTALK_PT_status_view")
    assert "12 of 48" in layout.texts("progress")[0]
    assert "edtalk.cancel_installation" in layout.texts("operator")
    assert bpy.ops.edtalk.cancel_installation() == {"FINISHED"}
    for button in ("EDTALK_OT_install_engine", "EDTALK_OT_install_engine_from_folder", "EDTALK_OT_uninstall_engine"):
        assert "being installed" in getattr(package.engine.operators, button).disabled_reason(bpy.context)


def test_the_error_of_an_installation_is_reported(addon, package, quiet, monkeypatch):
    error = addon.inference.contract.errors.EDTalkError("The disk is full.", "Free some space.", "disk")
    ended = SimpleNamespace(finished=True, error=error, log=SimpleNamespace(tail=("No space",)), cancel=lambda: None)
    monkeypatch.setattr(package.engine.operators._state, "failed", None)
    monkeypatch.setattr(package.engine.operators._state, "installation", ended)
    assert package.engine.operators._watch() is None
    assert package.engine.operators.installation() is None
    assert "No space" in package.engine.operators.report_text()
    assert quiet.problems[-1].message == "The disk is full."


def test_an_installation_from_an_empty_folder_is_an_error(package, quiet, tmp_path):
    with pytest.raises(RuntimeError, match=r"\.whl"):
        bpy.ops.edtalk.install_engine_from_folder(directory=str(tmp_path))


def test_the_report_has_blender_version_and_engine_state(addon, package, fake_engine, scene, obj):
    fake_engine()
    package.engine.session.wait(package.engine.session.submit(addon.inference.contract.requests.Ping()))
    assert bpy.ops.edtalk.copy_report() == {"FINISHED"}
    text = package.engine.operators.report_text()
    assert bpy.app.version_string in text
    assert "Fake" in text


def test_an_idle_engine_releases_memory_and_then_stops(package, fake_engine, monkeypatch):
    session, requests = package.engine.session, []
    client = fake_engine()
    client.start()
    assert session._tick() is not None, "the timer runs while the engine starts"
    pump_until(package, lambda: client.state.value == "ready")
    monkeypatch.setattr(client, "request", lambda request: requests.append(request.kind))
    session._tick()
    assert requests == []
    monkeypatch.setattr(session, "_RELEASE_AFTER", 0.0)
    session._tick()
    session._tick()
    assert requests == ["release"], "sent once"
    monkeypatch.setattr(session, "_END_AFTER", 0.0)
    session._tick()
    assert client.state.value == "stopped"
    assert session._tick() is None, "no timer for a stopped engine"


def test_a_late_tick_does_more_work(package, quiet, monkeypatch):
    """Where Blender takes seconds to redraw, few ticks must keep up with the engine."""
    budgets = []
    monkeypatch.setattr(quiet, "pump", lambda budget: budgets.append(budget) or True)
    monkeypatch.setattr(quiet._state, "due", float("inf"))
    for late in (0.5, 3600.0):
        quiet._tick()
        quiet._state.due = time.monotonic() - late
    quiet._tick()
    assert budgets[0] == quiet.STEP
    assert quiet.STEP < budgets[1] < budgets[2] < 0.2


def test_a_task_that_fails_to_start_ends_and_is_reported(package, quiet, fake_engine):
    fake_engine()
    task = quiet.submit(lambda: 1 / 0, label="Dividing")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        quiet.wait(task)
    assert quiet.problems[-1].fix == "edtalk.copy_report"
    assert not quiet.tasks


# --- Preferences


def test_preferences_reach_the_engine(package, quiet):
    preferences = package.preferences.preferences()
    try:
        preferences.device, preferences.threads = "cpu", 1
        assert quiet.preferred().options == ("--device", "cpu", "--threads", "1")
        preferences.python = "/nowhere/python"
        assert not quiet.find_engine().usable
    finally:
        preferences.device, preferences.threads, preferences.python = "auto", 0, ""
    assert quiet.preferred().options == ()


def test_the_tab_can_be_renamed(package):
    def tabs() -> set[str]:
        names = [name for name in dir(bpy.types) if name.startswith("EDTALK_PT_")]
        return {getattr(bpy.types, name).bl_category for name in names}

    preferences = package.preferences.preferences()
    try:
        preferences.tab = "Talk"
        assert tabs() == {"Talk"}
        preferences.tab = "  "
        assert tabs() == {"EDTalk"}
    finally:
        preferences.tab = "EDTalk"


def test_the_tab_keeps_its_place_and_begins_with_the_status(package):
    """A panel without a header or with a lower `bl_order` than Blender's own would move the tab before Item."""
    panels = package.preferences._tabbed()
    assert not any("HIDE_HEADER" in getattr(cls, "bl_options", ()) for cls in panels)
    orders = {cls.bl_space_type: [getattr(cls, "bl_order", 0) for cls in panels] for cls in panels}
    assert min(min(order) for order in orders.values()) == 0
    for space in ("VIEW_3D", "SEQUENCE_EDITOR"):
        shown = [cls for cls in panels if cls.bl_space_type == space]
        assert shown[0].bl_label == "Status"
