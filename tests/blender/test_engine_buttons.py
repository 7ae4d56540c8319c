"""Installing the engine from Blender: what is proposed, what it says it will take, how the old engine gives way."""

import threading
import time
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import Layout


@pytest.fixture
def package(addon):
    return addon.edtalk_blender


@pytest.fixture
def buttons(package, monkeypatch):
    """The operators' module, on a computer with Linux whose graphics card has not been asked for yet."""
    package.engine.session.dismiss()
    monkeypatch.setattr(package.engine.lock, "here", lambda: "linux-x86_64")
    monkeypatch.setattr(package.engine.operators, "_suited", None)
    yield package.engine.operators
    package.engine.session.dismiss()


@pytest.fixture
def user(package, monkeypatch, tmp_path):
    """The extension's folder, with nothing in it."""
    monkeypatch.setattr(package.engine.session, "user_folder", lambda: tmp_path)
    return tmp_path


def wait_for(buttons) -> tuple[str, str]:
    buttons.suited()
    return buttons._suited.result(30)


def test_the_card_is_asked_for_in_the_background(package, buttons, monkeypatch):
    asked, answered = threading.Event(), threading.Event()

    def probe():
        asked.set()
        assert answered.wait(30)
        return [package.engine.gpu.Card("RTX 4090", (8, 9), (13, 0))]

    monkeypatch.setattr(package.engine.gpu, "probe", probe)
    assert buttons.suited() is None
    assert asked.wait(30)
    assert buttons.planned() == ""
    assert buttons.planned("cpu"), "what was chosen needs no card"
    answered.set()
    assert wait_for(buttons)[0] == "cuda"
    assert "RTX 4090" in buttons.suited()[1]
    assert "3.0 GB are downloaded" in buttons.planned()


def test_what_is_installed_is_said_with_its_size(package, buttons):
    assert "For the processor, 0.5 GB are downloaded" in buttons.planned("cpu")
    assert "For older NVIDIA graphics cards (CUDA 12), 3.2 GB are downloaded" in buttons.planned("cuda-old")
    assert "0.3 GB and torch" in buttons.planned("other")
    assert "cannot be installed for Apple's graphics on linux-x86_64" in buttons.planned("mps")


def test_preferences_show_the_plan_and_reach_the_installation(package, buttons, user, monkeypatch):
    monkeypatch.setattr(package.engine.gpu, "probe", lambda: [])
    engine = package.engine.engine
    missing = engine.Engine(engine.State.MISSING, user, None, "The engine is not installed.", "Install it.")
    monkeypatch.setattr(package.engine.session, "find_engine", lambda: missing)
    wait_for(buttons)
    preferences, cls = package.preferences.preferences(), package.preferences.EDTalkPreferences

    def drawn() -> Layout:
        layout = Layout()
        names = ("device", "threads", "yields", "cache", "tab", "python", "backend", "mirror", "torch_index")
        shown = SimpleNamespace(layout=layout, **{name: getattr(preferences, name) for name in names})
        shown._draw_engine = lambda box: cls._draw_engine(shown, box)
        shown._draw_installation = lambda box: cls._draw_installation(shown, box)
        cls.draw(shown, bpy.context)
        return layout

    assert {"backend", "mirror", "torch_index"} <= set(drawn().texts("prop"))
    assert any("No NVIDIA graphics card" in text for text in drawn().texts("label"))
    assert any("0.5 GB are downloaded" in text for text in drawn().texts("label"))
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


def test_downloads_are_removed_and_the_engine_stays(buttons, user):
    (user / "downloads").mkdir()
    (user / "engine").mkdir()
    assert bpy.ops.edtalk.remove_downloads() == {"FINISHED"}
    assert not (user / "downloads").exists()
    assert (user / "engine").exists()


def test_a_running_engine_gives_way_when_the_new_one_is_there_and_not_before(
    package, buttons, fake_engine, monkeypatch
):
    client = fake_engine()
    running = SimpleNamespace(phase="downloading", finished=False, let_go=threading.Event(), cancel=lambda: None)
    monkeypatch.setattr(buttons, "_installation", running)
    assert buttons._watch() > 0
    assert package.engine.session.current_client() is client
    running.phase = buttons.REPLACING
    assert buttons._watch() > 0
    assert package.engine.session.current_client() is None
    assert running.let_go.is_set()


def test_without_torch_for_the_processor_the_larger_one_is_offered(addon, package, buttons, monkeypatch):
    error = addon.inference.contract.errors.EDTalkError(
        "There is no torch==2.13.0+cpu.", "Choose another backend.", "torch"
    )
    log = SimpleNamespace(tail=("[1] pip download", "ERROR: No matching distribution"))
    ended = SimpleNamespace(finished=True, error=error, log=log, cancel=lambda: None)
    monkeypatch.setattr(buttons, "_failed", None)
    monkeypatch.setattr(buttons, "_installation", ended)
    assert buttons._watch() is None
    problem = package.engine.session.problems[-1]
    assert (problem.fix, dict(problem.options)) == ("edtalk.install_engine", {"backend": "cuda"})
    assert "CUDA" in problem.label
    known = bpy.ops.edtalk.install_engine.get_rna_type().properties
    assert set(problem.options) <= set(known.keys())
    assert "ERROR: No matching distribution" in buttons.report_text()


def test_memory_is_shown_and_given_back_by_button_and_before_renders_if_wanted(
    package, buttons, fake_engine, monkeypatch
):
    session, told = package.engine.session, []
    assert "not running" in buttons.EDTALK_OT_free_memory.disabled_reason(bpy.context)
    client = fake_engine()
    client.start()
    until = time.monotonic() + 10
    while not (client.state.value == "ready" and client.beat) and time.monotonic() < until:
        session._tick()
        time.sleep(0.005)
    layout = Layout()
    package.panels.status.draw_engine(layout)
    assert "edtalk.free_memory" in layout.texts("operator")
    assert any(text.endswith(" GB") for text in layout.texts("label"))
    monkeypatch.setattr(client, "request", lambda request: told.append(request.kind))
    assert bpy.ops.edtalk.free_memory() == {"FINISHED"}
    assert told == ["release"]
    monkeypatch.setattr(session, "tasks", [object()])
    assert "at work" in buttons.EDTALK_OT_free_memory.disabled_reason(bpy.context)
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
    assert told == ["release"] * 2
