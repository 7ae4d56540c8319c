"""The sequencer's sidebar, the status box and the preferences: what is drawn in which state, and what buttons do."""

import time
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import Layout
from tests.strip_material import noise, write_sound


@pytest.fixture
def package(addon):
    return addon.edtalk_blender


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(1.0))


@pytest.fixture
def draw(package):
    """`draw("EDTALK_PT_face")`: the layout after a panel has been drawn, None where it is not shown."""

    def draw(name: str) -> Layout | None:
        modules = (package.panels.sequencer, package.panels.status)
        cls = next(cls for module in modules for cls in module.CLASSES if cls.__name__ == name)
        if hasattr(cls, "poll") and not cls.poll(bpy.context):
            return None
        panel = SimpleNamespace(layout=Layout())
        for name in ("_draw_speaker", "_draw_notes", "_draw_face"):
            if hasattr(cls, name):
                setattr(panel, name, getattr(cls, name).__get__(panel))
        if hasattr(cls, "draw_header"):
            cls.draw_header(panel, bpy.context)
        cls.draw(panel, bpy.context)
        return panel.layout

    return draw


def words(layout):
    """All labels run together without spaces, for sentences are broken into lines."""
    return "".join(layout.texts("label")).replace(" ", "")


@pytest.fixture
def quiet(package):
    """No problems left over from another test."""
    package.engine.session.dismiss()
    package.engine.session.restart()
    return package.engine.session


# --- The sequencer's panels


def test_the_first_thing_to_do_is_to_add_a_character(draw):
    assert draw("EDTALK_PT_dialogue").texts("operator") == ["edtalk.add_character"]
    assert draw("EDTALK_PT_lip_settings") is None


def test_then_to_select_sound_and_lip_sync_it(draw, package, scene, obj, sound):
    layout = draw("EDTALK_PT_dialogue")
    assert "Selectsoundstrips" in words(layout)
    strip = package.compat.new_sound(scene, "line", sound, 1, 1)
    strip.select = True
    layout = draw("EDTALK_PT_dialogue")
    assert layout.texts("menu") == ["EDTALK_MT_speakers"]
    assert layout.texts("operator") == ["edtalk.lip_sync"]
    package.timeline.sequencer.assign(strip, obj)
    assert draw("EDTALK_PT_dialogue").texts("operator") == ["edtalk.lip_sync", "edtalk.lip_sync"]
    assert draw("EDTALK_MT_speakers").texts("operator") == ["edtalk.assign_strip", "edtalk.assign_strip"]
    assert draw("EDTALK_PT_lip_settings").texts("prop") == ["lip_step", "lip_smooth", "lip_decimate", "lip_nla"]


def test_what_is_wrong_with_a_strip_is_said(draw, package, scene, obj, tmp_path):
    path = write_sound(tmp_path / "line.wav", noise(1.0))
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    strip.select = True
    strip["edtalk_stale"] = True
    assert "useLipSyncagain" in words(draw("EDTALK_PT_dialogue"))
    path.unlink()
    layout = draw("EDTALK_PT_dialogue")
    assert "file.find_missing_files" in layout.texts("operator")
    assert "ismissing" in words(layout)


def test_the_face_panel_tells_what_is_left_to_render(draw, package, scene, obj, fake_engine):
    fake_engine()
    scene.frame_end = 3
    assert "edtalk.render_face" in draw("EDTALK_PT_face").texts("operator")
    bpy.ops.edtalk.render_face(frames="SCENE")
    assert words(draw("EDTALK_PT_face")) == ""
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    strip.elements[1].filename = "waiting_x.png"
    assert "1of3framesarestilltoberendered" in words(draw("EDTALK_PT_face"))
    assert "everybody" not in draw("EDTALK_PT_face").texts("prop")
    package.character.character.create(scene, name="Ben")
    assert "everybody" in draw("EDTALK_PT_face").texts("prop")


def test_what_follows_what_can_be_switched(draw):
    assert draw("EDTALK_PT_follow").texts("prop") == ["follow", "follow_face", "follow_keys"]
    assert draw("EDTALK_PT_preview").texts("prop") == ["preview"]


# --- Status


def test_progress_is_shown_with_its_cancel(addon, draw, package, scene, obj, fake_engine):
    fake_engine("--slow", 0.2)
    package.engine.session.dismiss()
    request = addon.inference.contract.requests.Portrait(None, __file__, "none")
    tasks = [package.engine.session.submit(request, label=label) for label in ("Reading one", "Reading two")]
    layout = draw("EDTALK_PT_status_sequencer")
    assert len(layout.texts("progress")) == 2
    assert layout.texts("progress")[0].startswith("Reading one:")
    assert layout.texts("operator").count("edtalk.cancel") == 3, "each, and all"
    bpy.ops.edtalk.cancel()
    package.engine.session.wait(*tasks)
    assert all(task.cancelled for task in tasks)
    assert draw("EDTALK_PT_status_view").texts("progress") == []


def test_a_problem_is_shown_with_its_mend_until_it_is_dismissed(addon, draw, package, quiet):
    error = addon.inference.contract.errors.EDTalkError(
        "The engine ran out of memory.", "Close other programs.", "memory"
    )
    quiet.report(error)
    quiet.report(error)
    layout = draw("EDTALK_PT_status_sequencer")
    assert words(layout).count("ranoutofmemory") == 1
    assert "edtalk.restart_engine" in layout.texts("operator")
    assert bpy.ops.edtalk.dismiss() == {"FINISHED"}
    assert "ranoutofmemory" not in words(draw("EDTALK_PT_status_sequencer"))


def test_a_missing_engine_is_offered_to_be_installed(draw, package, quiet, monkeypatch):
    engine = package.engine.engine
    missing = engine.Engine(engine.State.MISSING, quiet.ROOT, None, "The engine is not installed.", "Install it.")
    monkeypatch.setattr(quiet, "find_engine", lambda: missing)
    layout = draw("EDTALK_PT_status_view")
    assert layout.texts("operator") == ["edtalk.install_engine", "edtalk.install_engine_from_folder"]
    assert "notinstalled" in words(layout)
    buttons = package.engine.operators
    assert "network" in buttons.EDTALK_OT_install_engine.disabled_reason(bpy.context), "Blender may not go online here"
    assert buttons.EDTALK_OT_install_engine_from_folder.disabled_reason(bpy.context) == ""


def test_a_running_installation_is_shown(draw, package, quiet, monkeypatch):
    running = SimpleNamespace(
        phase="installing packages", done=12, total=48, unit="", finished=False, cancel=lambda: None
    )
    monkeypatch.setattr(package.engine.operators, "_installation", running)
    layout = draw("EDTALK_PT_status_view")
    assert layout.texts("progress") == ["Installing: installing packages 12 of 48"]
    assert layout.texts("operator") == ["edtalk.cancel_installation"]
    assert bpy.ops.edtalk.cancel_installation() == {"FINISHED"}
    for button in ("EDTALK_OT_install_engine", "EDTALK_OT_install_engine_from_folder", "EDTALK_OT_uninstall_engine"):
        assert "being installed" in getattr(package.engine.operators, button).disabled_reason(bpy.context)


def test_the_end_of_an_installation_is_noticed(addon, package, quiet, monkeypatch):
    error = addon.inference.contract.errors.EDTalkError("The disk is full.", "Free some space.", "disk")
    ended = SimpleNamespace(finished=True, error=error, log=SimpleNamespace(tail=("No space",)), cancel=lambda: None)
    monkeypatch.setattr(package.engine.operators, "_failed", None)
    monkeypatch.setattr(package.engine.operators, "_installation", ended)
    assert package.engine.operators._watch() is None
    assert package.engine.operators.installation() is None
    assert "No space" in package.engine.operators.report_text()
    assert quiet.problems[-1].message == "The disk is full."


def test_an_installation_from_an_empty_folder_is_refused(package, quiet, tmp_path):
    with pytest.raises(RuntimeError, match=r"\.whl"):
        bpy.ops.edtalk.install_engine_from_folder(directory=str(tmp_path))


def test_a_report_holds_what_a_bug_report_needs(addon, package, fake_engine, scene, obj):
    fake_engine()
    package.engine.session.wait(package.engine.session.submit(addon.inference.contract.requests.Ping()))
    assert bpy.ops.edtalk.copy_report() == {"FINISHED"}
    text = package.engine.operators.report_text()
    assert bpy.app.version_string in text
    assert "Fake" in text


def test_an_idle_engine_gives_back_memory_and_then_ends(package, fake_engine, monkeypatch):
    session, told = package.engine.session, []
    client = fake_engine()
    client.start()
    until = time.monotonic() + 10
    while client.state.value != "ready" and time.monotonic() < until:
        assert session._tick() is not None
        time.sleep(0.005)
    monkeypatch.setattr(client, "request", lambda request: told.append(request.kind))
    session._tick()
    assert told == []
    monkeypatch.setattr(session, "_RELEASE", 0.0)
    session._tick()
    session._tick()
    assert told == ["release"], "once"
    monkeypatch.setattr(session, "_LEAVE", 0.0)
    session._tick()
    assert client.state.value == "stopped"
    assert session._tick() is None, "no timer for an engine that has ended"


def test_a_task_that_cannot_be_begun_ends_and_is_told(package, quiet, fake_engine):
    fake_engine()
    task = quiet.submit(lambda: 1 / 0, label="Dividing")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        quiet.wait(task)
    assert quiet.problems[-1].fix == "edtalk.copy_report"
    assert not quiet.tasks


# --- Preferences


def test_preferences_are_drawn_and_reach_the_engine(package, quiet, monkeypatch):
    preferences = package.preferences.preferences()
    layout = Layout()
    cls = package.preferences.EDTalkPreferences
    panel = SimpleNamespace(layout=layout, _draw_engine=lambda box: cls._draw_engine(panel, box))
    for name in ("device", "threads", "yields", "cache", "tab", "python"):
        setattr(panel, name, getattr(preferences, name))
    cls.draw(panel, bpy.context)
    assert set(layout.texts("prop")) == {"device", "threads", "yields", "cache", "tab", "python"}
    try:
        preferences.device, preferences.threads = "cpu", 1
        assert quiet.preferred().options == ("--device", "cpu", "--threads", "1")
        preferences.python = "/nowhere/python"
        assert not quiet.find_engine().usable
    finally:
        preferences.device, preferences.threads, preferences.python = "auto", 0, ""
    assert quiet.preferred().options == ()


def test_the_tabs_name_is_the_artists(package):
    preferences = package.preferences.preferences()
    try:
        preferences.tab = "Talk"
        assert bpy.types.EDTALK_PT_dialogue.bl_category == bpy.types.EDTALK_PT_character.bl_category == "Talk"
        preferences.tab = "  "
        assert bpy.types.EDTALK_PT_dialogue.bl_category == "EDTalk"
    finally:
        preferences.tab = "EDTalk"
