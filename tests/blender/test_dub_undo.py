"""Dub Movie and the undo history."""

import bpy
import pytest

from tests.blender.test_dubbing import place
from tests.pumping import pump_until
from tests.strip_material import noise, write_sound


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_press_has_one_undo_step(package, scene, film, fake_engine, monkeypatch, tmp_path, is_cancelled):
    """With lip sync and the strip; also if it is cancelled, for the new character."""
    fake_engine()
    movie = place(package, scene, film, 10)
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(1.0)), 2, 1)
    sound.select = movie.select = True
    session, pushed = package.engine.session, []
    monkeypatch.setattr(session, "blocking", lambda: False)
    monkeypatch.setattr(session, "redraw", lambda *_: None)
    monkeypatch.setattr(session, "keep_ticking", lambda: None)
    monkeypatch.setattr(session, "notify", lambda _text: None)
    monkeypatch.setattr(session, "edited", pushed.append)
    monkeypatch.setattr(package.engine.operator_base.EngineOperator, "_from_button", True)
    assert bpy.ops.edtalk.dub_movie() == {"FINISHED"}
    assert pushed == []
    for task in list(session.tasks) if is_cancelled else ():
        task.cancel()
    pump_until(package, lambda: not session.tasks)
    assert pushed == ["Dub Movie"]
    (obj,) = package.character.character.characters(scene)
    assert len(package.timeline.sequencer.faces(scene, obj)) == (0 if is_cancelled else 1)
