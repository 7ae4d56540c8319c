"""Panels drawn onto a layout that writes down what it is asked for: nothing fails and nothing is missing."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import Layout


@pytest.fixture
def package(addon):
    return addon.edtalk_blender


@pytest.fixture
def draw(package):
    """`draw("EDTALK_PT_banks")`: the layout after a panel or menu has been drawn, None where it is not shown."""

    def draw(name: str, **options) -> Layout | None:
        cls = next(cls for cls in package.panels.character.CLASSES if cls.__name__ == name)
        if hasattr(cls, "poll") and not cls.poll(bpy.context):
            return None
        panel = SimpleNamespace(layout=Layout(**options), **{
            name: getattr(cls, name).__get__(SimpleNamespace()) for name in ("_draw_header",) if hasattr(cls, name)
        })  # fmt: skip
        cls.draw(panel, bpy.context)
        return panel.layout

    return draw


def test_without_a_character_there_is_the_button_that_adds_one(draw, scene):
    layout = draw("EDTALK_PT_character")
    assert layout.texts("operator") == ["edtalk.add_character", "edtalk.demo"]
    assert draw("EDTALK_PT_emotions") is None
    assert draw("EDTALK_PT_banks") is None


def test_every_slider_is_drawn_once(draw, package, obj):
    names = draw("EDTALK_PT_banks").texts("prop") + draw("EDTALK_PT_emotions").texts("prop")
    sliders = [name for name in names if name.startswith("[")]
    assert sorted(sliders) == sorted(f'["{name}"]' for name in package.character.character.channel_names(obj))
    assert names.count("strength") == names.count("mute") == names.count("solo") == 3


def test_closed_banks_draw_their_header_only(draw, obj):
    layout = draw("EDTALK_PT_banks", closed=("edtalk_lip", "edtalk_pose", "edtalk_exp"))
    assert layout.texts("prop") == ["strength", "solo", "mute"] * 3
    assert layout.texts("label") == ["Mouth", "Head", "Expression"]


def test_the_character_panel_is_quiet_when_all_is_well(draw, obj):
    layout = draw("EDTALK_PT_character")
    assert layout.texts("label") == ["starter bank"]
    assert {"edtalk.reset", "edtalk.mirror", "edtalk.copy_pose", "edtalk.paste_pose"} <= set(layout.texts("operator"))


def test_own_emotions_can_be_removed(draw, package, obj):
    package.character.character.set_own_presets(obj, {"smug": {"mouthSmile": 0.5}})
    layout = draw("EDTALK_PT_emotions")
    assert layout.texts("operator").count("edtalk.remove_emotion") == 1


def test_menus(draw, package, obj, tmp_path, monkeypatch):
    path = tmp_path / "emotions.json"
    monkeypatch.setattr(package.animation.emotion, "library_path", lambda: path)
    assert draw("EDTALK_MT_characters").texts("operator") == ["edtalk.select_character", "edtalk.add_character"]
    assert "edtalk.add_emotion" not in draw("EDTALK_MT_emotions").texts("operator")
    package.animation.presets.write(path, {"smug": {"mouthSmile": 0.5}})
    assert "edtalk.add_emotion" in draw("EDTALK_MT_emotions").texts("operator")
    path.write_text("damaged")
    assert "holds no emotions" in draw("EDTALK_MT_emotions").texts("label")[0]


@pytest.mark.parametrize("fault", ["portrait", "bank", "sliders", "hidden"])
def test_what_is_wrong_is_said_with_the_button_that_mends_it(draw, package, obj, write_bank, fault):
    character, animation = package.character.character, package.animation.keys
    if fault == "portrait":
        obj.edtalk.portrait = "/nowhere/face.png"
        expected = "edtalk.set_portrait", "/nowhere/face.png does not exist"
    elif fault == "bank":
        path = write_bank()
        character.set_bank(obj, str(path))
        path.unlink()
        expected = "edtalk.set_bank", "does not exist"
    elif fault == "sliders":
        character.set_bank(obj, str(write_bank()))
        write_bank(banks={"lip": ("jawOpen", "lip_02"), "pose": ("headYaw",), "exp": ("exp_01", "exp_03")})
        expected = "edtalk.update_sliders", "lacks sliders"
    else:
        animation.insert_keys(obj, {"jawOpen": 1.0}, 1)
        obj.animation_data.action = bpy.data.actions.new("Walk")
        expected = "edtalk.reveal_animation", "'Walk' is assigned"
    found = {operator: message for message, operator, _label in package.panels.character.problems(obj)}
    assert set(found) == {expected[0]}
    assert expected[1] in found[expected[0]]
    layout = draw("EDTALK_PT_character")
    assert expected[0] in layout.texts("operator")
    assert found[expected[0]].replace(" ", "") in "".join(layout.texts("label")).replace(" ", "")
    draw("EDTALK_PT_banks")
    draw("EDTALK_PT_emotions")


@pytest.mark.parametrize(
    ("bank", "expected"),
    [
        ("lip", {"Jaw": 4, "Tongue and Cheeks": 2, "Corners": 5, "Lips": 9}),
        ("pose", {"Turn": 3, "Place": 3}),
        ("exp", {"Brows": 3, "Eyes": 3, "Cheeks and Nose": 2, "Mouth": 2}),
    ],
)
def test_the_starter_bank_falls_into_groups(package, obj, bank, expected):
    names = package.character.character.bank_of(obj).names_of(bank)
    groups = package.panels.character.grouped(bank, names)
    assert {title: len(members) for title, members in groups.items()} == expected
    assert sorted(name for members in groups.values() for name in members) == sorted(names)


def test_unknown_names_form_one_group_without_a_title(package):
    grouped = package.panels.character.grouped
    assert grouped("lip", ["lip_01", "lip_02"]) == {"": ["lip_01", "lip_02"]}
    assert grouped("lip", ["jawOpen", "lip_02"]) == {"": ["lip_02"], "Jaw": ["jawOpen"]}
    assert grouped("eye", ["gazeLeft"]) == {"": ["gazeLeft"]}


@pytest.mark.parametrize("text", ["", "short", "a sentence of many words that goes on for a while", "/long" * 30])
def test_wrapping_loses_nothing(package, text):
    lines = package.panels.messages.wrapped(text, 20)
    assert all(len(line) <= 20 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
