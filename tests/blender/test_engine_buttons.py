"""Installing the engine from Blender: the proposed backend, the announced sizes, the replacement of the old engine."""

import sys
import threading
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import Layout
from tests.pumping import PATIENCE, pump_until


@pytest.fixture
def buttons(package, monkeypatch):
    """The module of the operators, on Linux, before the graphics card is probed."""
    package.engine.session.dismiss()
    monkeypatch.setattr(package.engine.lock, "here", lambda: "linux-x86_64")
    monkeypatch.setattr(package.engine.operators._state, "backend", None)
    yield package.engine.operators
    package.engine.session.dismiss()


@pytest.fixture
def user(package, monkeypatch, tmp_path):
    """The extension's own folder, empty."""
    monkeypatch.setattr(package.engine.session, "user_folder", lambda: tmp_path)
    return tmp_path


def wait_for(buttons) -> tuple[str, str]:
    buttons.suitable_backend()
    return buttons._state.backend.result(PATIENCE)


def test_the_graphics_card_is_probed_in_a_thread(package, buttons, monkeypatch):
    probed, answered = threading.Event(), threading.Event()

    def probe():
        probed.set()
        assert answered.wait(PATIENCE)
        return [package.engine.gpu.Card("RTX 4090", (8, 9), (13, 0))]

    monkeypatch.setattr(package.engine.gpu, "probe", probe)
    assert buttons.suitable_backend() is None
    assert probed.wait(PATIENCE)
    assert buttons.planned() == ""
    assert buttons.planned("cpu"), "a chosen backend needs no probe"
    answered.set()
    assert wait_for(buttons)[0] == "cuda"
    assert "RTX 4090" in buttons.suitable_backend()[1]
    assert "downloads 3.0 GB" in buttons.planned()


def test_the_plan_names_backend_and_sizes(package, buttons):
    assert "For the CPU: downloads 0.5 GB" in buttons.planned("cpu")
    assert "For older NVIDIA graphics cards (CUDA 12): downloads 3.2 GB" in buttons.planned("cuda-old")
    assert "0.3 GB and torch" in buttons.planned("other")
    assert "cannot be installed for Apple graphics on linux-x86_64" in buttons.planned("mps")


def test_preferences_show_the_plan_and_are_used_by_the_installation(package, buttons, user, monkeypatch):
    monkeypatch.setattr(package.engine.gpu, "probe", lambda: [])
    engine = package.engine.engine
    missing = engine.Engine(engine.State.MISSING, user, None, "The engine is not installed.", "Install it.")
    monkeypatch.setattr(package.engine.session, "find_engine", lambda: missing)
    wait_for(buttons)
    preferences, cls = package.preferences.preferences(), package.preferences.EDTalkPreferences

    def drawn() -> Layout:
        layout = Layout()
        names = ("device", "threads", "yields", "cache", "cache_limit", "tab", "python", "backend", "mirror")
        names += ("torch_index",)
        shown = SimpleNamespace(layout=layout, **{name: getattr(preferences, name) for name in names})
        shown._draw_engine = lambda box: cls._draw_engine(shown, box)
        shown._draw_installation = lambda box: cls._draw_installation(shown, box)
        cls.draw(shown, bpy.context)
        return layout

    assert {"backend", "mirror", "torch_index"} <= set(drawn().texts("prop"))
    assert any("No NVIDIA graphics card" in text for text in drawn().texts("label"))
    assert any("downloads 0.5 GB" in text for text in drawn().texts("label"))
    assert "edtalk.remove_downloads" not in drawn().texts("operator")
    (user / "downloads").mkdir()
    (user / "downloads" / "torch.whl").write_bytes(b"x" * 2_000_000)
    assert "edtalk.remove_downloads" in drawn().texts("operator")
    assert any(text.endswith("2 MB") for text in drawn().texts("label"))

    taken = {}
    made = SimpleNamespace(start=lambda: None, wait=lambda: True, error=None)
    monkeypatch.setattr(buttons, "Installation", lambda *_place, **options: taken.update(options) or made)
    try:
        preferences.backend, preferences.mirror, preferences.torch_index = (
            "cpu",
            "https://m.example",
            "https://t.example",
        )
        assert bpy.ops.edtalk.install_engine_from_folder(directory=str(user)) == {"FINISHED"}
        assert (taken["backend"], taken["mirror"], taken["torch_index"]) == (
            "cpu",
            "https://m.example",
            "https://t.example",
        )
        assert (taken["wheels"], taken["hold"]) == (user, False)
        archive = user / "packages.zip"
        assert bpy.ops.edtalk.install_engine_from_folder(directory=str(user), filepath=str(archive)) == {"FINISHED"}
        assert taken["wheels"] == archive
    finally:
        preferences.backend, preferences.mirror, preferences.torch_index = "auto", "", ""


def test_blender_knows_the_class_of_each_button(buttons, user, monkeypatch):
    """It loses the class, and with it `poll`, of an operator from which another registered one is derived."""
    assert [cls.__name__ for cls in buttons.CLASSES if getattr(bpy.types, cls.__name__) is not cls] == []
    monkeypatch.setattr(buttons, "planned", lambda backend="": "For the CPU.")
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", True)
    if bpy.app.online_access:  # Blender may have been started with --offline-mode
        assert bpy.ops.edtalk.install_engine.poll()
    assert bpy.ops.edtalk.install_engine_from_folder.poll()


def test_remove_downloads_keeps_the_engine(buttons, user):
    (user / "downloads").mkdir()
    (user / "engine").mkdir()
    assert bpy.ops.edtalk.remove_downloads() == {"FINISHED"}
    assert not (user / "downloads").exists()
    assert (user / "engine").exists()


def test_a_running_engine_ends_just_before_it_is_replaced(package, buttons, fake_engine, monkeypatch):
    client = fake_engine()
    running = SimpleNamespace(phase="downloading", finished=False, may_replace=threading.Event(), cancel=lambda: None)
    monkeypatch.setattr(buttons._state, "installation", running)
    assert buttons._watch() > 0
    assert package.engine.session.current_client() is client
    running.phase = buttons.REPLACING
    assert buttons._watch() > 0
    assert package.engine.session.current_client() is None
    assert running.may_replace.is_set()


def test_if_the_index_has_no_cpu_torch_the_cuda_build_is_offered(addon, package, buttons, monkeypatch):
    error = addon.inference.contract.errors.EDTalkError(
        "There is no torch==2.13.0+cpu.", "Choose another backend.", "torch"
    )
    log = SimpleNamespace(tail=("[1] pip download", "ERROR: No matching distribution"))
    ended = SimpleNamespace(finished=True, error=error, log=log, cancel=lambda: None)
    monkeypatch.setattr(buttons._state, "failed", None)
    monkeypatch.setattr(buttons._state, "installation", ended)
    assert buttons._watch() is None
    problem = package.engine.session.problems[-1]
    assert (problem.fix, dict(problem.options)) == ("edtalk.install_engine", {"backend": "cuda"})
    assert "CUDA" in problem.label
    known = bpy.ops.edtalk.install_engine.get_rna_type().properties
    assert set(problem.options) <= set(known.keys())
    assert "ERROR: No matching distribution" in buttons.report_text()
    box = Layout()
    cls = package.preferences.EDTalkPreferences
    cls._draw_engine(SimpleNamespace(), box)
    assert "The package index has no PyTorch" in " ".join(box.texts("label")), "the preferences show it too"
    assert "edtalk.install_engine" in box.texts("operator")


def test_memory_is_shown_and_freed_by_the_button_and_before_renders_if_enabled(
    package, buttons, fake_engine, monkeypatch
):
    session, requests = package.engine.session, []
    assert "not running" in buttons.EDTALK_OT_free_memory.disabled_reason(bpy.context)
    client = fake_engine()
    client.start()
    pump_until(package, lambda: client.state.value == "ready" and client.beat)
    layout = Layout()
    package.panels.status.draw_engine(layout)
    assert "edtalk.free_memory" in layout.texts("operator")
    assert any(text.endswith(" GB") for text in layout.texts("label"))
    monkeypatch.setattr(client, "request", lambda request: requests.append(request.kind))
    assert bpy.ops.edtalk.free_memory() == {"FINISHED"}
    assert requests == ["release"]
    monkeypatch.setattr(session, "tasks", [object()])
    assert "busy" in buttons.EDTALK_OT_free_memory.disabled_reason(bpy.context)
    session.free_memory()
    monkeypatch.setattr(session, "tasks", [])
    preferences = package.preferences.preferences()
    try:
        package.handlers._render_init()
        preferences.yields = True
        package.handlers._render_init()
    finally:
        preferences.yields = False
        session.release("render")
    assert requests == ["release"] * 2


def unusable(package, user, **facts):
    engine = package.engine.engine
    facts = {"state": engine.State.MISSING, "root": user, "reason": "The engine is not installed.", "hint": "x"} | facts
    return engine.Engine(**facts)


def drawn_engine(package, monkeypatch, found) -> Layout:
    monkeypatch.setattr(package.engine.session, "find_engine", lambda: found)
    layout = Layout()
    package.panels.status.draw_engine(layout)
    return layout


def test_without_online_access_the_panel_offers_to_allow_it(package, buttons, user, monkeypatch):
    monkeypatch.setattr(buttons, "planned", lambda backend="": "For the CPU: downloads 0.5 GB.")
    layout = drawn_engine(package, monkeypatch, unusable(package, user))
    assert "edtalk.allow_online_access" in layout.texts("operator")
    text = " ".join(layout.texts("label"))
    assert "downloads 0.5 GB" in text
    assert "online access, which is off" in text
    assert "in the extension's preferences" not in text, "the same text stands in the preferences"
    assert not bpy.app.online_access
    try:
        assert bpy.ops.edtalk.allow_online_access("EXEC_DEFAULT") == {"FINISHED"}
        assert bpy.app.online_access
        assert not bpy.ops.edtalk.allow_online_access.poll()
        layout = drawn_engine(package, monkeypatch, unusable(package, user))
        assert "edtalk.allow_online_access" not in layout.texts("operator")
        assert bpy.ops.edtalk.install_engine.poll()
    finally:
        bpy.context.preferences.system.use_online_access = False


def test_a_broken_engine_is_repaired_and_a_missing_one_installed(package, buttons, user, monkeypatch):
    engine = package.engine.engine
    monkeypatch.setattr(buttons, "planned", lambda backend="": "")
    broken = unusable(package, user, state=engine.State.BROKEN, reason="The Python that it uses was removed.")
    operators = drawn_engine(package, monkeypatch, broken).texts("operator")
    assert "edtalk.repair_engine" in operators
    assert "edtalk.install_engine" not in operators
    operators = drawn_engine(package, monkeypatch, unusable(package, user)).texts("operator")
    assert "edtalk.install_engine" in operators
    assert "edtalk.repair_engine" not in operators


def test_a_chosen_python_gets_a_tick_only_after_its_packages_were_imported(package, buttons, user, monkeypatch):
    session, check, preferences = package.engine.session, package.engine.check, package.preferences.preferences()
    answered = threading.Event()
    findings = [check.Finding("it has no torch", "Python 3.11.7"), check.Finding("", "Python 3.11.7, torch 2.13.0")]

    def examine(python):
        assert answered.wait(PATIENCE)
        return findings.pop(0)

    def shown() -> Layout:
        session.forget_engine()
        layout = Layout()
        package.panels.status.draw_engine(layout)
        return layout

    def wait() -> None:
        answered.set()
        for result in session._state.checks._found.values():
            result.result(PATIENCE)

    monkeypatch.setattr(check, "examine", examine)
    monkeypatch.setattr(session, "blocking", lambda: False)
    try:
        preferences.python = sys.executable
        assert shown().texts("label") == ["Checking the chosen Python..."]
        wait()
        layout = shown()
        text = " ".join(layout.texts("label"))
        assert "cannot run the engine: it has no torch" in text
        assert "Engine ready" not in text
        assert "edtalk.use_installed_engine" in layout.texts("operator")
        assert bpy.ops.edtalk.use_installed_engine.poll()
        answered.clear()
        session.check_engine()
        shown()
        wait()
        assert shown().texts("label") == ["Engine ready"]
        assert session.find_engine().versions == "Python 3.11.7, torch 2.13.0"
        assert bpy.ops.edtalk.use_installed_engine() == {"FINISHED"}
        assert preferences.python == ""
    finally:
        preferences.python = ""
        monkeypatch.undo()
        session.check_engine()
        if bpy.app.timers.is_registered(session.forget_engine):
            bpy.app.timers.unregister(session.forget_engine)
