"""Panels and menus in every state of a scene: drawing never fails, and every disabled operator gives a reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import draw
from tests.strip_material import noise, write_sound

STATES: dict[str, Callable[[SimpleNamespace], object]] = {}


def state(prepare: Callable[[SimpleNamespace], object]) -> Callable[[SimpleNamespace], object]:
    """Register a function that prepares a scene, under its name."""
    STATES[prepare.__name__] = prepare
    return prepare


@pytest.fixture
def world(package, scene, demo, film, tmp_path, write_bank, fake_engine, monkeypatch):
    """What the states use: the add-on's modules, files, and `add` for a character."""
    monkeypatch.setattr(package.animation.emotion_operators, "library_path", lambda: tmp_path / "emotions.json")
    package.engine.session.dismiss()

    def add(name="Anna", bank=""):
        obj = package.character.character.create(scene, str(demo / "portrait_1.png"), bank, name)
        bpy.context.view_layer.objects.active = obj
        return obj

    yield SimpleNamespace(
        package=package, scene=scene, demo=demo, film=film, tmp=tmp_path, add=add, write_bank=write_bank,
        fake_engine=fake_engine, monkeypatch=monkeypatch, sound=write_sound(tmp_path / "line.wav", noise(0.5)),
    )  # fmt: skip
    package.engine.session.dismiss()


# --- Characters


@state
def empty_scene(world):
    pass


@state
def other_object(world):
    mesh = bpy.data.objects.new("Cube", bpy.data.meshes.new("Cube"))
    world.scene.collection.objects.link(mesh)
    bpy.context.view_layer.objects.active = mesh


@state
def character(world):
    world.add()


@state
def two_characters_none_active(world):
    world.add(), world.add("Ben")
    bpy.context.view_layer.objects.active = None


@state
def missing_portrait(world):
    world.add().edtalk.portrait = str(world.tmp / "gone.png")


@state
def missing_bank(world):
    path = world.write_bank()
    world.add(bank=str(path))
    path.unlink()


@state
def missing_sliders(world):
    world.add(bank=str(world.write_bank()))
    world.write_bank(banks={"lip": ("jawOpen", "lip_02"), "pose": ("headYaw",), "exp": ("exp_01", "exp_03")})


@state
def manual_crop(world):
    world.add().edtalk.crop_mode = "box"


@state
def overridden_keyframes(world):
    obj = world.add()
    world.package.animation.keys.insert_keys(obj, {"jawOpen": 1.0}, 1)
    obj.animation_data.action = bpy.data.actions.new("Walk")


@state
def bank_without_emotions(world):
    world.add(bank=str(world.write_bank(presets={})))


@state
def custom_emotions(world):
    world.package.character.sliders.set_own_presets(world.add(), {"smug": {"mouthSmile": 0.5}})
    world.package.animation.presets.write(world.tmp / "emotions.json", {"wry": {"mouthSmile": 0.5}})


@state
def damaged_library(world):
    world.add()
    (world.tmp / "emotions.json").write_text("damaged")


@state
def unnamed_sliders(world):
    banks = {"lip": ("lip_01", "lip_02"), "pose": ("pose_01",), "exp": ("exp_01", "exp_02")}
    return world.add(bank=str(world.write_bank("plain", banks=banks)))


@state
def proposed_names(world):
    obj = unnamed_sliders(world)
    world.fake_engine()
    bpy.ops.edtalk.name_sliders()
    obj.edtalk_naming.sliders[0].new_name = ""


# --- 3D heads


def add_head(*names: str) -> bpy.types.Object:
    head = bpy.data.objects.new("Head", bpy.data.meshes.new("Head"))
    head.data.from_pydata([(0, 0, 0)], [], [])
    bpy.context.scene.collection.objects.link(head)
    for name in ("Basis", *names):
        head.shape_key_add(name=name)
    bpy.context.view_layer.objects.active = head
    return head


@state
def head_without_links(world):
    world.add()
    add_head("jawOpen")


@state
def head_with_basis_only(world):
    world.add()
    add_head()


@state
def driven_head(world):
    obj, head = world.add(), add_head("jawOpen", "hat")
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    return obj, head


@state
def outdated_drivers(world):
    obj, _head = driven_head(world)
    world.package.character.sliders.setup_channels(obj, {"jawOpen": 0.3})


@state
def head_of_a_deleted_character(world):
    obj, _head = driven_head(world)
    bpy.data.objects.remove(obj)


# --- Strips


def add_sound(world) -> bpy.types.Strip:
    strip = world.package.compat.new_sound(world.scene, "line", world.sound, 1, 1)
    strip.select = True
    return strip


@state
def sound_without_character(world):
    add_sound(world)


@state
def sound_strip(world):
    world.add()
    return add_sound(world)


@state
def dialogue_of_two_characters(world):
    for frame, name in ((1, "Anna"), (100, "Ben")):
        strip = world.package.compat.new_sound(world.scene, name, world.sound, 1, frame)
        world.package.timeline.sequencer.assign(strip, world.add(name))
        strip.select = True


@state
def stale_dialogue(world):
    strip = sound_strip(world)
    world.package.timeline.sequencer.assign(strip, world.package.character.character.characters(world.scene)[0])
    strip["edtalk_stale"] = True
    strip["edtalk_time"] = "damaged"


@state
def missing_sound(world):
    sound_strip(world)
    world.sound.unlink()


@state
def speaker_was_deleted(world):
    strip, obj = add_sound(world), world.add()
    world.package.timeline.sequencer.assign(strip, obj)
    bpy.data.objects.remove(obj)


def add_movie(world) -> bpy.types.Strip:
    strip = world.package.compat.new_movie(world.scene, "film", world.film, 2, 1)
    strip.select = True
    return strip


@state
def movie_strip(world):
    world.add()
    add_movie(world)


@state
def movie_and_sound_without_character(world):
    add_sound(world), add_movie(world)


@state
def all_capture_options(world):
    movie_strip(world)
    settings = world.package.capture.capture.settings(world.scene)
    settings.relative, settings.rest_at, settings.crop_mode = True, "FRAME", "box"


@state
def nothing_to_capture(world):
    movie_strip(world)
    settings = world.package.capture.capture.settings(world.scene)
    settings.use_lip = settings.use_pose = settings.use_exp = settings.use_eye = False


@state
def partly_rendered_face(world):
    world.fake_engine()
    obj = world.add()
    world.scene.frame_end = 3
    bpy.ops.edtalk.render_face(frames="SCENE")
    (strip,) = world.package.timeline.sequencer.faces(world.scene, obj)
    strip.elements[1].filename = "waiting_x.png"
    strip["edtalk_stale"] = True


@state
def whole_plate_layer(world):
    partly_rendered_face(world)
    world.package.character.character.characters(world.scene)[0].edtalk.layer = "plate"


# --- The engine


@state
def reported_problem(world):
    error = SimpleNamespace(message="The disk is full.", hint="Free some space.", kind="disk")
    world.package.engine.session.report(error)


@state
def missing_engine(world):
    session, engine = world.package.engine.session, world.package.engine.engine
    found = engine.Engine(engine.State.MISSING, session.ROOT, None, "The engine is not installed.", "Install it.")
    world.monkeypatch.setattr(session, "find_engine", lambda: found)
    world.add()


@state
def running_installation(world):
    running = SimpleNamespace(phase="packages", done=12, total=48, unit="", finished=False, cancel=lambda: None)
    world.monkeypatch.setattr(world.package.engine.operators._state, "installation", running)


@pytest.mark.parametrize("name", STATES)
def test_nothing_fails_and_disabled_operators_give_a_reason(package, world, name):
    STATES[name](world)
    for cls in defined(package, bpy.types.Panel, bpy.types.Menu):
        draw(cls)
    for cls in defined(package, bpy.types.Operator):
        reason = cls.disabled_reason(bpy.context)
        enabled = getattr(bpy.ops.edtalk, cls.bl_idname.removeprefix("edtalk.")).poll()
        assert enabled == (reason == ""), f"{cls.__name__}: {reason}"
        assert not reason.endswith("."), "Blender adds the full stop"


def defined(package, *kinds: type) -> list[type]:
    """The add-on's registered classes of some kinds."""
    classes = {cls for module in package.modules() for cls in vars(module).values() if isinstance(cls, type)}
    return [cls for cls in classes if issubclass(cls, kinds) and cls.__name__.startswith("EDTALK_")]


# --- What the panels of a character contain


@pytest.fixture
def drawn(package):
    """`drawn("EDTALK_PT_banks")`: the layout of a panel, or None if it is hidden."""
    return lambda name, **options: draw(getattr(package.panels.character, name), **options)


def test_an_empty_scene_offers_to_add_a_character(drawn, scene):
    assert "edtalk.add_character" in drawn("EDTALK_PT_character").texts("operator")
    assert drawn("EDTALK_PT_emotions") is None
    assert drawn("EDTALK_PT_banks") is None


def test_every_slider_is_drawn_once(drawn, package, obj):
    names = drawn("EDTALK_PT_banks").texts("prop") + drawn("EDTALK_PT_emotions").texts("prop")
    sliders = [name for name in names if name.startswith("[")]
    assert sorted(sliders) == sorted(f'["{name}"]' for name in package.character.sliders.channel_names(obj))


def test_closed_banks_draw_no_sliders(drawn, obj):
    closed = drawn("EDTALK_PT_banks", closed=("edtalk_lip", "edtalk_pose", "edtalk_exp", "edtalk_eye"))
    assert not any(name.startswith("[") for name in closed.texts("prop"))


def test_custom_emotions_can_be_removed(drawn, package, obj):
    package.character.sliders.set_own_presets(obj, {"smug": {"mouthSmile": 0.5}})
    assert drawn("EDTALK_PT_emotions").texts("operator").count("edtalk.remove_emotion") == 1


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("missing_portrait", "edtalk.set_portrait"),
        ("missing_bank", "edtalk.set_bank"),
        ("missing_sliders", "edtalk.update_sliders"),
        ("overridden_keyframes", "edtalk.reveal_animation"),
    ],
)
def test_each_problem_is_shown_with_the_operator_that_fixes_it(drawn, package, world, name, fix):
    STATES[name](world)
    problems = package.panels.character.problems(package.character.character.active(bpy.context))
    assert [operator for _message, operator, _label in problems] == [fix]
    assert fix in drawn("EDTALK_PT_character").texts("operator")


def test_a_good_character_has_no_problems(package, obj):
    assert package.panels.character.problems(obj) == []


# --- Groups of sliders


def test_the_sequencer_has_the_same_emotions(drawn, package, obj):
    shown = draw(package.panels.sequencer.EDTALK_PT_emotions_sequencer)
    assert shown.drawn == drawn("EDTALK_PT_emotions").drawn
    assert "happy" in " ".join(shown.texts("prop"))
    bpy.data.objects.remove(obj)
    assert draw(package.panels.sequencer.EDTALK_PT_emotions_sequencer) is None


@pytest.mark.parametrize("bank", ["lip", "pose", "exp"])
def test_every_slider_of_the_starter_bank_is_in_a_titled_group(package, obj, bank):
    names = package.character.files.bank_of(obj).names_of(bank)
    groups = package.panels.character.grouped(bank, names)
    assert "" not in groups
    assert sorted(name for members in groups.values() for name in members) == sorted(names)


def test_unknown_names_form_one_group_without_a_title(package):
    grouped = package.panels.character.grouped
    assert grouped("lip", ["lip_01", "lip_02"]) == {"": ["lip_01", "lip_02"]}
    assert grouped("lip", ["jawOpen", "lip_02"]) == {"": ["lip_02"], "Jaw": ["jawOpen"]}
    assert grouped("eye", ["gazeLeft"]) == {"": ["gazeLeft"]}


@pytest.mark.parametrize("width", [1, 3, 20, 200])
@pytest.mark.parametrize("text", ["", "short", "a sentence of many words that goes on for a while", "/long" * 30])
def test_wrapped_lines_are_short_and_complete(package, text, width):
    lines = package.panels.messages.wrapped(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    words = text.split()
    if words and max(map(len, words)) <= width:
        assert all(
            len(line) + 1 + len(following.split()[0]) > width for line, following in itertools.pairwise(lines)
        ), "no line is broken earlier than necessary"


def test_lines_are_measured_in_the_units_of_their_region(package):
    """Narrow letters fill a line with more characters than wide ones."""
    wrapped = package.panels.messages.wrapped
    narrow, wide = (
        wrapped(" ".join([letter] * 40), 20, lambda text: 2 * len(text) + 8 * text.count("W")) for letter in "iW"
    )
    assert len(narrow) < len(wide)


def test_a_message_fits_into_narrow_and_wide_sidebars(package, monkeypatch):
    messages, text = package.panels.messages, "The portrait of Anna does not exist. Choose the portrait again. " * 5
    preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1.0), ui_styles=bpy.context.preferences.ui_styles)
    view = SimpleNamespace(region_to_view=lambda x, y: (float(x), float(y)))
    counts = []
    for pixels in (250, 500, 1000):
        region = SimpleNamespace(type="UI", width=pixels, view2d=view)
        context = SimpleNamespace(region=region, preferences=preferences)
        with monkeypatch.context() as patch:
            patch.setattr(messages, "bpy", SimpleNamespace(context=context))
            width, measure = messages._available()
        assert 0 < width < pixels
        lines = messages.wrapped(text, width, measure)
        assert all(measure(line) <= width for line in lines)
        counts.append(len(lines))
    assert counts[0] > counts[1] > counts[2]
