"""Match the shape keys of a 3D head with sliders by name.

Recognises ARKit, VRM 0/1 and Meta (Oculus) viseme names, and names of sliders, in any spelling and with any prefix or
suffix: `jawOpen`, `Head.JAW_OPEN`, `mouthSmile_L`, `viseme_aa`, `Fcl_MTH_A`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...inference.contract import arkit
from ...inference.contract.bank import Coefficient
from ..character.arkit import from_bank


@dataclass(frozen=True)
class Link:
    """Adds `gain * (slider - rest)` to a shape key. The value of a shape key is the sum of its links."""

    shape_key: str
    slider: str
    gain: float = 1.0


# Approximations of visemes and eyelid shapes by ARKit blend shapes: name -> {blend shape: weight}. Meta's visemes DD,
# kk, CH, SS, nn and RR are missing, because no combination of blend shapes distinguishes them.
_VISEMES: dict[str, dict[str, float]] = {
    "aa": {"jawOpen": 1.4, "mouthFunnel": -0.7, "mouthPucker": -0.7},
    "ee": {"mouthStretchLeft": 1.0, "mouthStretchRight": 1.0},
    "ih": {"mouthDimpleLeft": 1.0, "mouthDimpleRight": 1.0},
    "oh": {"mouthFunnel": 1.8, "mouthPucker": -0.6},
    "ou": {"mouthPucker": 1.4},
    "pp": {"mouthPressLeft": 1.25, "mouthPressRight": 1.25},
    "ff": {"mouthRollLower": 1.6, "mouthPressLeft": -0.75, "mouthPressRight": -0.75},
    "th": {"tongueOut": 4.0},
}
_LIDS: dict[str, dict[str, float]] = {
    "blink": {"eyeBlinkLeft": 0.5, "eyeBlinkRight": 0.5},
    "blinkleft": {"eyeBlinkLeft": 1.0},
    "blinkright": {"eyeBlinkRight": 1.0},
}
_VISEME_NAMES = {name: name for name in _VISEMES} | {"a": "aa", "i": "ih", "u": "ou", "e": "ee", "o": "oh"}
_LID_NAMES = {name: name for name in _LIDS} | {
    "blinkl": "blinkleft", "blinkr": "blinkright", "eyeclose": "blink", "eyeclosel": "blinkleft",
    "eyecloser": "blinkright", "eyesclosed": "blink",
}  # fmt: skip
_EMOTION_NAMES = {"joy": "happy", "sorrow": "sad", "anger": "angry", "surprise": "surprised", "disgust": "disgusted"}
# Words in a name that carry no meaning of their own, in general and for visemes and emotions.
_AFFIXES = frozenset({"vrm", "fcl", "bs", "blend", "shape", "blendshape", "face", "facial", "expression", "key"})
_VISEME_AFFIXES = _AFFIXES | {"viseme", "vis", "v", "vrc", "mth", "mouth", "lip", "phoneme"}
_EMOTION_AFFIXES = _AFFIXES | {"all", "emotion", "exp"}
_BASIS = frozenset({"basis", "base", "neutral"})


def match(shape_keys: Iterable[str], coefficients: Sequence[Coefficient], emotions: Iterable[str] = ()) -> list[Link]:
    """Links for every shape key with a known name, in the order of the shape keys.

    ARKit shapes come first, because mixing them with others would apply the same motion twice: visemes are only linked
    if no ARKit shape moves the mouth, eyelids if none blinks, emotions if there are no ARKit shapes outside the mouth.
    """
    words = _own_words(name for name in shape_keys if "".join(_words(name)) not in _BASIS)
    units = from_bank(coefficients)
    keys_of = {unit: keys for unit, keys in _best(words, _ARKIT_NAMES).items() if unit in units}
    found = {key: _links(key, {unit: 1.0}, units) for unit, keys in keys_of.items() for key in keys}
    moves_mouth, blinks = bool(keys_of.keys() & _MOUTH), bool(keys_of.keys() & _BLINKS)
    expresses = bool(keys_of.keys() - _MOUTH)
    sliders = {"".join(_words(entry.name)): entry.name for entry in coefficients}
    emotion_names = {"".join(_words(name)): name for name in emotions}
    for key, parts in words.items():
        viseme, lid = _VISEME_NAMES.get(_core(parts, _VISEME_AFFIXES)), _LID_NAMES.get(_core(parts, _AFFIXES))
        core = _core(parts, _EMOTION_AFFIXES)
        emotion = emotion_names.get(core) or emotion_names.get(_EMOTION_NAMES.get(core, ""))
        if key in found:
            continue
        if slider := sliders.get("".join(parts)):
            found[key] = [Link(key, slider)]
        elif viseme and not moves_mouth:
            found[key] = _links(key, _VISEMES[viseme], units)
        elif lid and not blinks:
            found[key] = _links(key, _LIDS[lid], units)
        elif emotion and not expresses:
            found[key] = [Link(key, emotion)]
    return [link for key in words for link in found.get(key, ())]


def _links(shape_key: str, shares: Mapping[str, float], units: Mapping[str, Mapping[str, float]]) -> list[Link]:
    """Links of a shape key that is a weighted sum of ARKit blend shapes (`shares`)."""
    gains: dict[str, float] = {}
    for unit, share in shares.items():
        for slider, gain in units.get(unit, {}).items():
            gains[slider] = gains.get(slider, 0.0) + share * gain
    return [Link(shape_key, slider, round(gain, 6)) for slider, gain in gains.items()]


# --- Names


def _spellings(unit: str) -> Iterable[str]:
    """Lower-case spellings of `mouthSmileLeft`: mouthsmileleft, mouthsmilel, leftmouthsmile, lmouthsmile."""
    yield unit.lower()
    for side in ("Left", "Right"):
        name = unit.removesuffix(side)
        if name in arkit.PAIRED:
            yield from (f"{name}{side[0]}".lower(), f"{side}{name}".lower(), f"{side[0]}{name}".lower())


_ARKIT_NAMES = {spelling: unit for unit in arkit.FACE for spelling in _spellings(unit)}
_BLINKS = frozenset({"eyeBlinkLeft", "eyeBlinkRight"})
_MOUTH = frozenset(unit for unit in arkit.FACE if unit.startswith(("jaw", "mouth", "tongue")))


def _words(name: str) -> tuple[str, ...]:
    """`blendShape1.jawOpen_L` -> blend, shape, 1, jaw, open, l."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", name))


def _own_words(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Words of each name, without a prefix or suffix that all of three or more names share."""
    words = {name: _words(name) for name in names}
    while len(words) > 2 and all(len(parts) > 1 for parts in words.values()):
        firsts, lasts = ({parts[end] for parts in words.values()} for end in (0, -1))
        if len(firsts) > 1 and len(lasts) > 1:
            break
        part = slice(1, None) if len(firsts) == 1 else slice(None, -1)
        words = {name: parts[part] for name, parts in words.items()}
    return words


def _core(words: Sequence[str], affixes: frozenset[str]) -> str:
    """The words joined, without affixes."""
    return "".join(word for word in words if word not in affixes)


def _best(words: Mapping[str, Sequence[str]], aliases: Mapping[str, str]) -> dict[str, list[str]]:
    """Best matching names for each target of `aliases`. The whole name scores highest, then its end, its beginning."""
    candidates: dict[str, dict[str, int]] = {}
    for name, parts in words.items():
        count = len(parts)
        ends = [(3, "".join(parts))]
        ends += [(2, "".join(parts[start:])) for start in range(1, count)]
        ends += [(1, "".join(parts[:end])) for end in range(count - 1, 0, -1)]
        hit = next(((score, aliases[text]) for score, text in ends if text in aliases), None)
        if hit:
            candidates.setdefault(hit[1], {})[name] = hit[0]
    return {
        target: [name for name, score in names.items() if score == max(names.values())]
        for target, names in candidates.items()
    }
