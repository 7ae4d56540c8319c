"""Matching shape keys with sliders by name."""

from __future__ import annotations

import pytest
from edtalk.edtalk_blender.rig.shape_names import Link, match
from edtalk.inference.contract import arkit
from edtalk.inference.contract.bank import STARTER, Coefficient, read_bank

STARTERS = read_bank(STARTER).coefficients
EMOTIONS = ("angry", "disgusted", "fear", "happy", "sad", "surprised")
META = [f"viseme_{name}" for name in ("sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", *"EIOU", "aa")]


def matched(names, coefficients=STARTERS, emotions=EMOTIONS) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for link in match(names, coefficients, emotions):
        found.setdefault(link.shape_key, {})[link.slider] = link.gain
    return found


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def sided(name: str) -> str:
    return (
        name.replace("Left", "_L").replace("Right", "_R")
        if name[:-4] in arkit.PAIRED or name[:-5] in arkit.PAIRED
        else name
    )


@pytest.mark.parametrize(
    "spell",
    [
        str,
        str.lower,
        str.upper,
        snake,
        sided,
        lambda name: name[0].upper() + name[1:],
        lambda name: f"BS_{name}",
        lambda name: f"headBlendShape12.{name}",
        lambda name: f"{name}_v2",
        lambda name: f"Hero Face-{snake(name).upper()}-final",
    ],
    ids=["arkit", "lower", "upper", "snake", "sides", "pascal", "prefix", "maya", "suffix", "both"],
)
def test_arkit_in_any_spelling(spell):
    names = {spell(name): name for name in arkit.FACE}
    found = matched(["Basis", *names])
    directions = {spelt for spelt, unit in names.items() if unit.startswith("eyeLook")}
    expected = {
        spelt: {next(entry.name for entry in STARTERS if unit in entry.arkit): pytest.approx(1.0)}
        for spelt, unit in names.items()
        if any(unit in entry.arkit for entry in STARTERS) and spelt not in directions
    }
    assert {spelt: links for spelt, links in found.items() if spelt not in directions} == expected
    assert len(expected) == 44
    assert {name for spelt in directions for name in found[spelt]} == {"eyeYaw", "eyePitch"}


def test_a_single_shape_key_is_matched():
    assert match(["Model.jawOpen"], STARTERS) == [Link("Model.jawOpen", "jawOpen")]
    assert match(["left_eye_blink"], STARTERS) == [Link("left_eye_blink", "eyeBlink")]


@pytest.mark.parametrize("name", ["Basis", "hat", "jaw", "open", "xjawopenx", "mouth", "smile", "", "口", "a1b2"])
def test_other_names_are_not_matched(name):
    assert match([name], STARTERS, EMOTIONS) == []


def test_corrective_shapes_are_not_matched():
    names = ["jawOpen", "mouthSmileLeft_jawOpen", "jawOpen_fix", "mouthSmileLeft"]
    assert set(matched(names)) == {"jawOpen", "mouthSmileLeft"}


def test_shapes_of_several_meshes_are_all_matched():
    assert set(matched(["skin.jawOpen", "teeth.jawOpen", "beard.mouthSmileLeft"])) == {
        "skin.jawOpen",
        "teeth.jawOpen",
        "beard.mouthSmileLeft",
    }


@pytest.mark.parametrize("prefix", ["viseme_", "vrc.v_", "Face.Viseme-", ""])
def test_meta_visemes_are_matched_with_any_prefix(prefix):
    names = [name.replace("viseme_", prefix) for name in META]
    found = matched(names)
    assert {name[len(prefix) :].lower() for name in found} == {"pp", "ff", "th", "aa", "e", "i", "o", "u"}
    assert found[f"{prefix}aa"]["jawOpen"] > 0 > found[f"{prefix}aa"]["mouthFunnel"]
    assert found[f"{prefix}U"] == {"mouthPucker": pytest.approx(1.4)}


@pytest.mark.parametrize(
    ("names", "emotions"),
    [
        (
            {"aa", "ih", "ou", "ee", "oh", "blink", "blinkLeft", "blinkRight", "happy", "sad", "angry", "surprised"},
            {"happy": "happy", "sad": "sad", "angry": "angry", "surprised": "surprised"},
        ),
        (
            {"A", "I", "U", "E", "O", "Blink", "Blink_L", "Blink_R", "Joy", "Sorrow", "Angry"},
            {"Joy": "happy", "Sorrow": "sad", "Angry": "angry"},
        ),
        (
            {"Fcl_MTH_A", "Fcl_MTH_I", "Fcl_MTH_U", "Fcl_MTH_E", "Fcl_MTH_O", "Fcl_EYE_Close", "Fcl_EYE_Close_L",
             "Fcl_EYE_Close_R", "Fcl_ALL_Joy", "Fcl_ALL_Sorrow"},
            {"Fcl_ALL_Joy": "happy", "Fcl_ALL_Sorrow": "sad"},
        ),
    ],
    ids=["VRM 1", "VRM 0", "VRoid"],
)  # fmt: skip
def test_vrm_names_are_matched(names, emotions):
    others = ["neutral", "relaxed", "lookUp", "lookDown", "Fun", "Fcl_BRW_Joy", "Fcl_EYE_Joy", "Fcl_HA_Fung1"]
    found = matched([*sorted(names), *others])
    assert set(found) == names
    for name, emotion in emotions.items():
        assert found[name] == {emotion: 1.0}


def test_slider_names_and_custom_emotions():
    coefficients = [Coefficient("lip_01", "lip"), Coefficient("headScale", "pose"), Coefficient("mouthSmile", "exp")]
    assert matched(["Lip_01", "head_scale", "mouthSmile", "Smirk"], coefficients, ["smirk"]) == {
        "Lip_01": {"lip_01": 1.0},
        "head_scale": {"headScale": 1.0},
        "mouthSmile": {"mouthSmile": 1.0},
        "Smirk": {"smirk": 1.0},
    }


def test_arkit_shapes_exclude_visemes_and_emotions():
    """VRM heads for "perfect sync" have both; linking both would apply the same motion twice."""
    vrm = ["aa", "ih", "ou", "ee", "oh", "blink", "happy", "sad", "viseme_PP"]
    assert set(matched([*arkit.FACE, *vrm])).isdisjoint(vrm)
    assert set(matched(["eyeBlinkLeft", "eyeBlinkRight", "aa", "blink"])) == {"eyeBlinkLeft", "eyeBlinkRight", "aa"}
    assert set(matched(["jawOpen", "aa", "blink", "happy"])) == {"jawOpen", "blink", "happy"}


def test_gains_are_the_inverse_of_the_banks_mapping():
    coefficients = [Coefficient("axis", "lip", arkit={"jawOpen": 4.0})]
    assert matched(["jawOpen"], coefficients) == {"jawOpen": {"axis": pytest.approx(0.25)}}


def test_links_are_in_the_order_of_the_shape_keys():
    names = ["mouthPucker", "jawOpen", "browInnerUp"]
    assert [link.shape_key for link in match(names, STARTERS)] == names
