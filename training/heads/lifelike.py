"""What a person looks like with the assets of `training.heads.assets`: skin, hair, brows, teeth, glasses and camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.heads import mesh as heads
from training.heads.assets import Assets, Bound, front_of
from training.heads.identity import Identity
from training.units import NAMES

GLASS, BROW = 7, 6  # parts of a picture, after `mesh.SKIN` to `mesh.LASH`
PLAIN = -1  # layer of surfaces without a texture
# Hair by kind, and how often it is worn. Those that cover an eye (bob01, bob02, short03) are rare.
LONG = {"long01": 0.45, "ponytail01": 0.3, "braid01": 0.15, "bob01": 0.05, "bob02": 0.05}
SHORT = {"short01": 0.35, "short02": 0.3, "short04": 0.3, "short03": 0.05}
CURLY = {"afro01": 1.0}
LOWER_TEETH = np.array([0, -0.05, 0.0])  # shift in decimetres
NAPE = -0.3  # decimetres; short hair behind it is never seen
RIM_POINTS, TUBE_POINTS = 40, 6  # vertices around a lens and around its frame


@dataclass(frozen=True)
class Piece:
    """A part of a person other than the skin: m corners with texture coordinates, at rest in picture widths."""

    part: int
    layer: int
    opacity: float
    uv: np.ndarray  # (m, 2)
    rest: np.ndarray  # (m, 3)
    triangles: np.ndarray  # (f, 3)
    template: np.ndarray  # (m, 3) on the average head
    weight: np.ndarray  # (m, 1) share by which it moves with the head
    bound: Bound | None  # what it follows; None for glasses, which are rigid


@dataclass(frozen=True)
class Look:
    """Layers and pieces of a person, and the uniforms that replace those of the `Identity`."""

    skin: int
    eye: int
    solid: tuple[Piece, ...]  # teeth and tongue
    cards: tuple[Piece, ...]  # hair, brows, lashes, glasses: with holes
    uniforms: dict[str, Any]


def look(person: Identity, assets: Assets) -> Look:
    """The look of a person, which depends on the person's number only."""
    rng = np.random.default_rng([*person.number, 2])
    who, given = person.traits, person.uniforms
    name = _skin(rng, who, assets)
    tint = (np.asarray(given["skin_colour"]) / assets.skin_colours[name]) ** rng.uniform(0.45, 0.9)
    eye = int(np.linalg.norm(assets.irises**0.4 - np.asarray(given["iris_colour"]) ** 0.4, axis=1).argmin())
    # A portrait with closed lips does not show what the teeth are like: of teeth that vary, networks draw the mean.
    teeth = assets.teeth[0 if rng.random() < 0.8 else rng.integers(len(assets.teeth))]
    solid = (
        _piece(person, teeth, heads.TEETH, teeth.layer, show=rng.uniform(0.032, 0.042)),
        _piece(person, assets.tongue, heads.TONGUE, assets.tongue.layer),
    )
    cards = []
    hairdo = _hairdo(rng, who, assets)
    if hairdo is not None:
        worn = assets.hair[hairdo]
        hanging = hairdo in LONG
        shown = worn if hanging else front_of(worn, NAPE)
        cards.append(_piece(person, shown, heads.HAIR, worn.layer, hanging=hanging))
    brow = assets.brows[rng.integers(len(assets.brows))]
    cards.append(_piece(person, brow, BROW, brow.layer, opacity=rng.uniform(0.75, 1.0)))
    lash = assets.lashes[rng.choice(len(assets.lashes), p=_lash_odds(who, len(assets.lashes)))]
    cards.append(_piece(person, lash, heads.LASH, lash.layer, opacity=rng.uniform(0.45, 1.0)))
    if rng.random() < 0.16:
        cards += glasses(person, rng)
    return Look(assets.skins[name], assets.eyes[eye], solid, tuple(cards), _uniforms(rng, person, tint, hairdo))


def _skin(rng: np.random.Generator, who: dict[str, Any], assets: Assets) -> str:
    """File name of a skin of the person's sex, age and ancestry."""
    age = who["age"] + rng.normal(0, 0.08)
    years = "young" if age < 0.3 else "middleage" if age < 0.55 else "old"
    shade = "darkskinned" if rng.random() < who["ancestry"][0] else "lightskinned"
    sex = "_male" if who["male"] + rng.normal(0, 0.1) > 0.5 else "_female"
    names = [name for name in assets.skins if name.startswith(f"{years}_{shade}{sex}")] or sorted(assets.skins)
    return names[rng.integers(len(names))]


def _hairdo(rng: np.random.Generator, who: dict[str, Any], assets: Assets) -> str | None:
    """Name of the hair, None without."""
    style = who["style"]
    if style in ("bald", "buzz"):
        return None
    odds = LONG if style == "long" else CURLY if style == "afro" else SHORT
    names = [name for name in odds if name in assets.hair]
    weights = np.array([odds[name] for name in names])
    return str(rng.choice(names, p=weights / weights.sum())) if names else None


def _lash_odds(who: dict[str, Any], count: int) -> np.ndarray:
    """Probability of each pair of lashes; men have the first ones, which are the shortest."""
    odds = np.full(count, 1.0 - 0.9 * float(who["male"] > 0.5))
    odds[0] = 1.0
    return odds / odds.sum()


def _piece(
    person: Identity,
    bound: Bound,
    part: int,
    layer: int,
    opacity: float = 1.0,
    hanging: bool = False,
    show: float = 0.0,
) -> Piece:
    """A bound mesh on the person. hanging: whether its lower part lies on the shoulders. show: see `_bite`."""
    mesh = heads.load()
    rest = bound.rest(person.skull, person.unit)[bound.corner]
    if part == heads.TEETH:
        rest = rest + _bite(bound, mesh, show) * np.float32(person.unit)
    weight = np.ones((len(rest), 1), np.float32)
    if hanging:
        weight[:, 0] = heads.smoothstep(-0.75, -0.2, rest[:, 1])
    return Piece(
        part,
        layer,
        opacity,
        bound.uv,
        rest,
        bound.triangles,
        bound.template,
        weight,
        bound,
    )


def _bite(bound: Bound, mesh: heads.Mesh, show: float) -> np.ndarray:
    """(m, 3) shift of the teeth in decimetres: MakeHuman's upper teeth hide behind the lip, its lower ones do not.

    show: how far the upper teeth are moved down.
    """
    opening = mesh.units[NAMES.index("jawOpen")].reshape(-1, 3)
    lower = (bound.follow @ opening)[bound.corner, 1] < -0.05
    return np.where(lower[:, None], LOWER_TEETH, np.array([0, -show, 0.03])).astype(np.float32)


def _uniforms(rng: np.random.Generator, person: Identity, tint: np.ndarray, hairdo: str | None) -> dict[str, Any]:
    given, male = person.uniforms, person.traits["male"]
    painted = rng.random() < 0.35 * (1 - male)
    key = np.asarray(given["key_colour"])
    grow = male > 0.5 and rng.random() < 0.6
    return {
        "tint": tint * rng.uniform(0.92, 1.08),
        "lip_colour": np.asarray(given["lip_colour"]) if painted else np.array([0.45, 0.13, 0.11]) * tint,
        "lipstick": rng.uniform(0.35, 0.8) if painted else rng.uniform(0.0, 0.25),
        "enamel": np.array([1.0, rng.uniform(0.92, 0.98), rng.uniform(0.76, 0.9)]) * rng.uniform(1.3, 1.6),
        # of beard or stubble: density, upper limit, moustache, cheeks
        "beard": np.array([rng.choice([0.2, 0.4, 0.75]) if grow else 0.0, *np.asarray(given["beard"])[1:]]),
        "freckles": rng.uniform(0.2, 0.7) if rng.random() < 0.15 else 0.0,
        "bare": 1.0 if hairdo is None else 0.0,
        "gloss": rng.uniform(0.05, 0.4),
        "key_colour": key * rng.uniform(0.8, 1.5),
        # camera: exposure, contrast, saturation
        "camera": np.array([rng.uniform(0.85, 1.2), rng.uniform(0.0, 0.6), rng.uniform(0.75, 1.15)]),
        "flush": rng.uniform(0.0, 0.5),
    }


# ------------------------------------------------------------------------------------------------------- glasses


def glasses(person: Identity, rng: np.random.Generator) -> list[Piece]:
    """Frame and lenses in front of the eyes."""
    mesh, unit = heads.load(), person.unit
    balls = [person.skull[ball].mean(0) for ball in mesh.eyes]
    left, right = sorted(balls, key=lambda ball: ball[0])
    middle, span = (left + right) / 2, right[0] - left[0]
    nose = (mesh.part == heads.SKIN) & (np.abs(mesh.template[:, 0]) < 0.12) & (np.abs(mesh.template[:, 1] - 7.2) < 0.1)
    front = max(person.skull[nose, 2].max(), person.skull[mesh.points[260:500], 2].max()) + 0.04 * unit
    across, height = span * rng.uniform(0.36, 0.43), span * rng.uniform(0.26, 0.36)
    boxy, thick = rng.uniform(2.0, 4.0), unit * rng.choice([0.012, 0.02, 0.035])
    turn = np.linspace(0, 2 * np.pi, RIM_POINTS, endpoint=False)
    # a superellipse: 2 is round, 4 nearly rectangular
    x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / boxy) * across
    y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / boxy) * height - 0.1 * height
    tubes, lenses = [], []
    for eye in (left, right):
        ring = np.stack([eye[0] + x, middle[1] + y, front - 0.25 * unit * (np.abs(eye[0] + x) / span) ** 2], 1)
        tubes.append(_tube(np.concatenate([ring, ring[:1]]), thick))
        lenses.append((np.concatenate([ring, ring.mean(0, keepdims=True)]), _fan(RIM_POINTS)))
    inner = span / 2 - across
    x, y = middle[0] + np.array([-inner, 0, inner]), middle[1] + np.array([0.25, 0.4, 0.25]) * height
    tubes.append(_tube(np.stack([x, y, front + np.array([0, 0.03, 0]) * unit], 1), thick))
    for side in (-1, 1):
        hinge = np.array([middle[0] + side * (span / 2 + across), middle[1] + 0.2 * height, front - 0.3 * unit])
        ear = np.array([middle[0] + side * 0.78 * unit, middle[1] - 0.02 * unit, hinge[2] - 1.0 * unit])
        tubes.append(_tube(np.stack([hinge, (hinge + ear) / 2, ear]), thick))
    pieces = [_rigid(tubes, 1.0, mesh)]
    return [*pieces, _rigid(lenses, rng.uniform(0.04, 0.14), mesh)]


def _fan(count: int) -> np.ndarray:
    around = np.arange(count)
    return np.stack([around, (around + 1) % count, np.full(count, count)], 1)


def _tube(path: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A tube along a path (p, 3): vertices and triangles."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, [0.05, 0.1, 1.0])
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    up = np.cross(side, along)
    turn = np.linspace(0, 2 * np.pi, TUBE_POINTS, endpoint=False)[None, :, None]
    points = path[:, None] + radius * (np.cos(turn) * side[:, None] + np.sin(turn) * up[:, None])
    row, column = np.meshgrid(np.arange(len(path) - 1), np.arange(TUBE_POINTS), indexing="ij")
    a, b = row * TUBE_POINTS + column, row * TUBE_POINTS + (column + 1) % TUBE_POINTS
    c, d = a + TUBE_POINTS, b + TUBE_POINTS
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3), faces


def _rigid(parts: list[tuple[np.ndarray, np.ndarray]], opacity: float, mesh: heads.Mesh) -> Piece:
    starts = np.cumsum([0] + [len(points) for points, _ in parts])
    rest = np.concatenate([points for points, _ in parts]).astype(np.float32)
    triangles = np.concatenate([faces + start for (_, faces), start in zip(parts, starts, strict=False)])
    still = np.zeros((len(rest), 2), np.float32)
    template = np.zeros((len(rest), 3), np.float32)
    ones = np.ones((len(rest), 1), np.float32)
    return Piece(GLASS, PLAIN, opacity, still, rest, triangles.astype(np.int32), template, ones, None)
