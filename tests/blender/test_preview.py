"""Live preview: the latest pose is shown and superseded requests are dropped."""

import bpy
import numpy as np
import pytest

from tests.pumping import pump_until


@pytest.fixture
def live(package, scene, obj, fake_engine, monkeypatch):
    """A measured character with an engine that takes 50 ms per picture, as if Blender had a window."""
    fake_engine("--slow", 0.05)
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    package.render.preview.forget()
    obj.edtalk["headYaw"] = 0.0
    return obj


@pytest.fixture
def requested(package, monkeypatch):
    """Kinds of all requests to the engine."""
    kinds, submit = [], package.engine.session.submit
    monkeypatch.setattr(
        package.engine.session,
        "submit",
        lambda request, **options: kinds.append(request.kind) or submit(request, **options),
    )
    return kinds


def slide(obj, value):
    """Change a value and update the scene, like dragging a slider."""
    obj.edtalk["headYaw"] = value
    obj.update_tag()
    bpy.context.view_layer.update()


def finish(package):
    pump_until(package, lambda: not package.engine.session.tasks)


def pixels(package, obj):
    image = package.character.viewport.face_image(obj)
    values = np.empty(4 * image.size[0] * image.size[1], np.float32)
    image.pixels.foreach_get(values)
    return values


def expected(obj, package):
    """The colour that the fake engine renders for the current pose: three bytes of the row's checksum."""
    import zlib

    row = package.character.sliders.row(obj.evaluated_get(bpy.context.view_layer.depsgraph))
    return np.frombuffer(zlib.crc32(row.astype("<f4").tobytes()).to_bytes(4, "little")[:3], np.uint8) / 255


def test_moving_a_slider_updates_the_face(package, live, requested):
    slide(live, 0.4)
    assert requested == ["preview"]
    finish(package)
    assert pixels(package, live)[:3] == pytest.approx(expected(live, package), abs=1e-3)
    assert live.data == package.character.viewport.face_image(live), "the Empty shows it"
    slide(live, 0.4)
    assert requested == ["preview"], "nothing changed"


def test_only_the_latest_of_many_changes_is_rendered(package, live, requested):
    for step in range(40):
        slide(live, step / 40)
        package.engine.session.pump(0.001)
    finish(package)
    assert len(requested) < 20
    assert pixels(package, live)[:3] == pytest.approx(expected(live, package), abs=1e-3)


def test_scrubbing_shows_the_face_of_each_frame(package, scene, live, requested):
    package.animation.keys.write_curves(live, {"headYaw": np.array([0.0, 1.0])}, np.array([1, 10]))
    finish(package)
    requested.clear()
    scene.frame_set(5)
    finish(package)
    assert requested[-1] == "preview"
    assert pixels(package, live)[:3] == pytest.approx(expected(live, package), abs=1e-3)


def test_frame_changes_send_no_request_while_the_engine_is_busy(package, scene, live, requested):
    package.animation.keys.write_curves(live, {"headYaw": np.array([0.0, 1.0])}, np.array([1, 250]))
    scene.frame_set(1)
    before = len(requested)
    for frame in range(2, 102):
        scene.frame_set(frame)
    assert len(requested) - before <= 1
    finish(package)


def test_all_changed_characters_are_rendered(package, scene, live, requested, demo):
    ben = package.character.character.create(scene, str(demo / "portrait_2.png"), name="Ben")
    package.engine.session.wait(package.character.rest_pose.measure(ben))
    finish(package)
    package.render.preview.forget()
    for obj in (live, ben):
        obj.edtalk["jawOpen"] = 0.3
        obj.update_tag()
    bpy.context.view_layer.update()
    finish(package)
    for obj in (live, ben):
        assert pixels(package, obj)[:3] == pytest.approx(expected(obj, package), abs=1e-3)


@pytest.mark.parametrize("reason", ["off", "rendering", "failed", "background"])
def test_no_preview_is_rendered_when_it_cannot_be_used(package, scene, live, requested, monkeypatch, reason):
    if reason == "off":
        package.timeline.sequencer.settings(scene).preview = False
    elif reason == "rendering":
        package.engine.session.hold("render")
    elif reason == "failed":
        state = package.engine.client.State.FAILED
        monkeypatch.setattr(type(package.engine.session.current_client()), "state", property(lambda client: state))
    else:
        monkeypatch.setattr(package.engine.session, "blocking", lambda: True)
    slide(live, 0.7)
    scene.frame_set(7)
    package.engine.session.release("render")
    assert requested == []


def test_an_unmeasured_portrait_is_measured_first(package, scene, live, requested, demo):
    live.edtalk.rest_of = ""
    slide(live, 0.2)
    assert requested == ["portrait"]
    finish(package)


def test_a_missing_portrait_renders_no_preview(package, scene, live, requested):
    package.engine.session.dismiss()
    live.edtalk.portrait_image = None
    requested.clear()
    slide(live, 0.2)
    assert requested == []
    assert not package.engine.session.problems


def test_a_small_face_never_has_changes_that_blender_would_ask_to_save(package, live):
    """Saving comes at once after an edit, and the timer late in a busy Blender."""
    for value in (0.2, 0.7):
        image = package.character.viewport.show_pixels(live, np.full((512, 512, 4), value, np.float32))
        assert not image.is_dirty
        assert abs(image.pixels[0] - value) <= 1 / 255


def test_a_large_face_at_rest_has_no_changes_that_blender_would_ask_to_save(package, live, monkeypatch):
    viewport = package.character.viewport
    monkeypatch.setattr(viewport, "_AT_ONCE", 16)
    live.edtalk["jawOpen"] = 0.4
    rgba = np.random.default_rng(1).random((16, 16, 4), np.float32)
    image = viewport.show_pixels(live, rgba)
    assert image.is_dirty
    monkeypatch.setattr(viewport, "_IDLE", 1e9)
    assert viewport.pack_when_idle() is not None, "it has just changed"
    assert image.is_dirty
    monkeypatch.setattr(viewport, "_IDLE", 0.0)
    assert viewport.pack_when_idle() is None
    assert not image.is_dirty
    assert image.packed_file is not None
    shown = np.empty(rgba.size, np.float32)
    image.pixels.foreach_get(shown)
    np.testing.assert_allclose(shown.reshape(rgba.shape)[..., :3], rgba[..., :3], atol=1 / 255)
    assert viewport.show_pixels(live, rgba[::-1]) == image
    assert image.is_dirty


# --- Full size at rest


@pytest.fixture
def rested(package, monkeypatch):
    """`rested()` runs the timer as if nothing had changed for a while, and waits for the engine."""

    def rested():
        monkeypatch.setattr(package.render.preview, "_REST", 0.0)
        while package.render.preview.sharpen() is not None:
            finish(package)
        finish(package)

    return rested


@pytest.mark.parametrize(("setting", "side"), [("0", 64), ("256", 256), ("512", 512)])
def test_a_pose_at_rest_is_rendered_at_the_size_in_the_settings(package, scene, live, rested, setting, side):
    package.timeline.sequencer.settings(scene).preview_size = setting
    slide(live, 0.4)
    finish(package)
    native = package.character.viewport.face_image(live).size[0]
    assert native <= 64
    rested()
    image = package.character.viewport.face_image(live)
    assert image.size[0] == (native if setting == "0" else side)
    assert pixels(package, live)[:3] == pytest.approx(expected(live, package), abs=1e-3)


def test_a_changing_pose_is_only_rendered_at_the_banks_size(package, scene, live, requested, monkeypatch):
    monkeypatch.setattr(package.render.preview, "_REST", 1e9)
    for step in range(5):
        slide(live, step / 10)
        finish(package)
        assert package.render.preview.sharpen() is not None, "it waits"
    assert package.character.viewport.face_image(live).size[0] <= 64


def test_a_pose_at_rest_is_rendered_at_full_size_once(package, live, rested, requested):
    slide(live, 0.4)
    finish(package)
    rested()
    count = len(requested)
    rested()
    slide(live, 0.4)
    assert len(requested) == count


# --- Playback


@pytest.fixture
def playing(package, scene, live, monkeypatch):
    """Playback at any speed of a character that moves, without a limit for late frames."""
    package.animation.keys.write_curves(live, {"headYaw": np.array([0.0, 1.0])}, np.array([1, 250]))
    finish(package)
    monkeypatch.setattr(package.render.preview, "_is_playing", lambda: True)
    monkeypatch.setattr(package.render.preview.Pace, "allows", lambda self, now, rate: True)
    return live


def test_playback_shows_the_face(package, scene, playing, requested):
    scene.frame_set(5)
    assert requested == ["preview"]
    finish(package)


def test_playback_pauses_previews_where_a_rendered_strip_covers_the_frame(package, scene, playing, requested):
    scene.frame_start, scene.frame_end = 3, 6
    package.cli.render_faces(scene, [playing], "SCENE")
    (strip,) = package.timeline.sequencer.faces(scene, playing)
    requested.clear()
    scene.frame_set(4)
    assert requested == []
    strip.elements[2].filename = "waiting.png"
    scene.frame_set(5)
    assert requested == ["preview"], "this frame is not rendered yet"
    finish(package)
    scene.frame_set(8)
    assert requested == ["preview"] * 2, "after the strip"
    finish(package)
    strip.mute = True
    scene.frame_set(3)
    assert requested == ["preview"] * 3
    finish(package)


def test_the_face_is_shown_when_playback_ends(package, scene, playing, requested, monkeypatch):
    scene.frame_start, scene.frame_end = 3, 6
    package.cli.render_faces(scene, [playing], "SCENE")
    scene.frame_set(4)
    requested.clear()
    monkeypatch.setattr(package.render.preview, "_is_playing", lambda: False)
    package.handlers._animation_playback_post(scene, bpy.context.evaluated_depsgraph_get())
    assert requested == ["preview"]
    finish(package)


def test_without_an_editor_that_shows_it_playback_renders_no_preview(package, scene, playing, requested):
    for area in bpy.context.window.screen.areas:
        area.type = "TEXT_EDITOR"
    scene.frame_set(5)
    assert requested == []


RATE = 24


def play(pace, seconds, cost):
    """Previews per second and frames per second of playback in which a preview delays its frame by `cost` seconds."""
    start = now = pace.before + 1 / RATE
    drawn, frames = 0, 0
    while now < start + seconds:
        frames += 1
        shown = pace.allows(now, RATE)
        drawn += shown
        now += 1 / RATE + (cost if shown else 0.0)
    return drawn / seconds, frames / seconds


def test_previews_keep_up_with_playback_that_is_on_time(package):
    assert play(package.render.preview.Pace(), 10, 0.0)[0] == pytest.approx(RATE, rel=0.02)


@pytest.mark.parametrize("cost", [0.02, 0.1, 0.3])
def test_previews_become_rare_where_they_would_slow_playback(package, cost):
    """Without the limit, playback would be slower by a third to seven times."""
    previews, frames = play(package.render.preview.Pace(), 20, cost)
    assert frames > 0.8 * RATE
    assert previews > 0.3


def test_previews_come_back_when_playback_is_on_time_again(package):
    pace = package.render.preview.Pace()
    play(pace, 5, 0.3)
    play(pace, 5, 0.0)
    assert play(pace, 5, 0.0)[0] > 0.8 * RATE
