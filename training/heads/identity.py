"""Random people by seed: shape, skin, hair, clothes, light, backdrop and framing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from scipy.spatial import cKDTree

from training.heads import mesh as heads
from training.units import NAMES

# At rest, in picture widths: distance of the eyes, height of the eyes from the top, distance from eyes to chin.
EYE_SPAN, EYE_HEIGHT, CHIN_SPAN = 0.23, 0.44, 0.43
SKINS = {  # sRGB, lightest and darkest
    "african": ((0.58, 0.39, 0.28), (0.23, 0.14, 0.10)),
    "asian": ((0.93, 0.76, 0.64), (0.68, 0.49, 0.35)),
    "caucasian": ((0.96, 0.80, 0.72), (0.76, 0.56, 0.44)),
}
HAIR_COLOURS = (
    (0.06, 0.05, 0.05), (0.10, 0.07, 0.05), (0.20, 0.12, 0.07), (0.32, 0.20, 0.11), (0.48, 0.33, 0.18),
    (0.72, 0.55, 0.32), (0.85, 0.73, 0.50), (0.50, 0.20, 0.09), (0.62, 0.30, 0.13),
)  # fmt: skip
STYLES = ("bald", "buzz", "short", "thick", "afro", "long")
GREY_HAIR = ((0.45, 0.44, 0.43), (0.62, 0.61, 0.60), (0.86, 0.85, 0.83))
IRIS_COLOURS = (
    (0.20, 0.11, 0.05), (0.28, 0.16, 0.07), (0.40, 0.25, 0.10), (0.35, 0.38, 0.20), (0.25, 0.40, 0.34),
    (0.33, 0.50, 0.66), (0.45, 0.58, 0.68), (0.42, 0.46, 0.48),
)  # fmt: skip


def linear(colour: Any) -> np.ndarray:
    """sRGB 0..1 to linear light (gamma 2.2, the inverse of the shader's)."""
    return np.clip(np.asarray(colour, np.float64), 0.0, 1.0) ** 2.2


@dataclass(frozen=True)
class Identity:
    """A person, with camera and lights. V as in `Mesh`."""

    rest: np.ndarray  # (V, 3) float32 neutral shape, the eyes' midpoint at the origin, picture width = 1
    unit: float  # picture widths in a decimetre of the mesh
    pivot: np.ndarray  # (3,) joint of skull and neck
    paint: np.ndarray  # (V, 4) float32 decimetres above the hairline and below the collar, lips and inner mouth 0..1
    local: np.ndarray  # (V, 3) float32 direction from an eye ball's centre; on long hair its across and down, -1..1
    gaze: np.ndarray  # (2,) radians to the picture's right and up, away from the camera
    shell: bool  # has long hair
    uniforms: dict[str, Any]  # colours and lights by shader name
    backdrop: np.ndarray  # (B, B, 3) float32 sRGB 0..255, enlarged smoothly
    number: tuple[int, int]  # seed and index
    traits: dict[str, Any]  # ancestry (3,) in the order of SKINS, male, age and weight, style of the hair
    skull: np.ndarray  # (V, 3) float32: `rest` without the thickness of short hair
    distance: float  # of the camera, in picture widths
    centre: np.ndarray  # (2,) position of the eyes' midpoint at rest, 0..1 from left and top
    lips: tuple[float, float] = (1.0, 1.0)  # heights of upper and lower lip, in those of the mesh


def _shape(rng: np.random.Generator, mesh: heads.Mesh) -> tuple[np.ndarray, dict[str, Any]]:
    """(19158, 3) vertices of the original file with the person's shape, and the person's attributes."""
    ancestry = rng.dirichlet((0.35, 0.35, 0.35))
    male = float(np.clip(rng.normal(0.5, 0.55), 0.0, 1.0))
    age = float(rng.beta(0.9, 1.9))  # 0 is 25 years, 1 is 90
    weight = float(np.clip(rng.normal(0.0, 0.45), -1.0, 1.0))
    amounts: dict[str, float] = {}
    for sex, of_sex in (("male", male), ("female", 1.0 - male)):
        for years, of_age in (("young", 1.0 - age), ("old", age)):
            for kind, of_kind in zip(("african", "asian", "caucasian"), ancestry, strict=True):
                amounts[f"macrodetails/{kind}-{sex}-{years}"] = of_sex * of_age * of_kind
            heavy = "maxweight" if weight > 0 else "minweight"
            amounts[f"macrodetails/universal-{sex}-{years}-averagemuscle-{heavy}"] = of_sex * of_age * abs(weight)
            if years == "old":
                name = f"macrodetails/universal-{sex}-old-averagemuscle-averageweight"
                amounts[name] = of_sex * of_age * (1.0 - abs(weight))
    names = heads.shape_names()
    for pick in rng.choice(len(names), 60, replace=False):
        amount = abs(rng.normal()) * 0.3
        tilt = rng.normal() * 0.1  # faces are slightly asymmetrical
        for side, name in enumerate(names[pick]):
            lopsided = 0.0 if "eyes/" in name else tilt
            amounts[name] = min(amount * (1.0 + (lopsided if side else -lopsided)), 0.8)
    vertices = mesh.original.copy()
    for name, amount in amounts.items():
        if amount > 1e-3:
            index, delta = _head_target(name)
            vertices[index] += np.float32(amount) * delta
    return vertices, {"ancestry": ancestry, "male": male, "age": age, "weight": weight}


@cache
def _head_target(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The part of a shape target that moves rendered vertices or the neck joint."""
    index, delta = heads.target(name)
    kept = heads.load().kept >= 0
    kept[heads.HEAD_JOINT] = True
    return index[kept[index]], delta[kept[index]]


def _lips_together(shape: np.ndarray, mesh: heads.Mesh) -> np.ndarray:
    """(V, 3) displacement in decimetres that closes a mouth which the random shape opened, along `mouthClose`."""
    opening, closing = (mesh.units[NAMES.index(name)].reshape(-1, 3) for name in ("jawOpen", "mouthClose"))
    x, _, z = mesh.template.T
    lips = (mesh.part == heads.SKIN) & (mesh.paint[:, 0] > 0.5) & (np.abs(x) < 0.08) & (z > 1.5)
    lower = lips & (opening[:, 1] < -0.15)
    gap = shape[lips & ~lower, 1].min() - shape[lower, 1].max()
    return closing * np.float32(np.clip(gap / 0.25 + 0.02, 0.0, 0.3))


def _skin(rng: np.random.Generator, who: dict[str, Any]) -> np.ndarray:
    """(3,) sRGB 0..1."""
    depth = rng.beta(1.6, 1.8)
    colour = sum(
        part * ((1.0 - depth) * np.array(light) + depth * np.array(dark))
        for part, (light, dark) in zip(who["ancestry"], SKINS.values(), strict=True)
    )
    return np.clip(colour * (1.0 + rng.normal(0.0, 0.02, 3)) * rng.uniform(0.94, 1.05), 0.05, 0.98)


def _hair_colour(rng: np.random.Generator, who: dict[str, Any]) -> np.ndarray:
    """(3,) sRGB 0..1."""
    if rng.random() < who["age"] ** 1.3:
        return np.array(GREY_HAIR[rng.integers(len(GREY_HAIR))])
    if rng.random() < 0.03:
        return rng.uniform(0.1, 0.8, 3)  # dyed
    fair = rng.random() < who["ancestry"][2]
    colour = np.array(HAIR_COLOURS[rng.integers(len(HAIR_COLOURS)) if fair else rng.integers(3)])
    return np.clip(colour * rng.uniform(0.85, 1.15) * (1.0 + rng.normal(0.0, 0.04, 3)), 0.02, 0.95)


def _hairline(rng: np.random.Generator, template: np.ndarray, who: dict[str, Any]) -> np.ndarray:
    """(V,) height above the hairline in decimetres, which depends on the azimuth around the skull (0 is the front)."""
    x, y, z = template.T
    azimuth = np.degrees(np.arctan2(np.abs(x), z - 0.25))
    front = rng.normal(8.02, 0.07)
    recede = abs(rng.normal()) * 0.13 * who["male"] * (0.4 + 1.5 * who["age"])
    temple, side = front - rng.uniform(0.05, 0.3) + 1.2 * recede, rng.uniform(6.85, 7.35)
    knots = (0, 14, 30, 46, 58, 68, 76, 100, 120, 180)
    heights = (front + 0.6 * recede - rng.uniform(0, 0.05), front + 0.6 * recede, front + 1.3 * recede,
               temple, temple - 0.25, 7.55, side, 7.42, 6.8, rng.uniform(6.35, 6.7))  # fmt: skip
    # smoothed, so that the hairline has no corners
    fine = np.interp(np.arange(181), knots, heights)
    fine = np.convolve(np.pad(fine, 6, mode="edge"), np.ones(13) / 13, mode="valid")
    return (y - np.interp(azimuth, np.arange(181), fine)).astype(np.float32)


def _drape(
    rng: np.random.Generator, at: np.ndarray, around: np.ndarray, unit: float, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Long hair on the skull and down its back and sides: (S, 3) vertices, (S, 3) strand coordinates.

    at: (n, 3) points of the scalp; around: (3,) centre of the skull; unit: one decimetre; length: of the hanging part
    in decimetres.
    """
    top = np.linspace(0.0, 1.0, heads.SHELL_ROWS)[:, None]
    opening = np.radians(rng.uniform(52, 80))
    curtain = rng.uniform(-0.25, 0.2)  # slope of the front edge
    part = np.linspace(-1.0, 1.0, heads.SHELL_COLUMNS)[None, :]
    share = 0.42  # of the rows that lie on the skull; the others hang
    on_skull = np.clip(top / share, 0.0, 1.0)
    hanging = np.clip((top - share) / (1.0 - share), 0.0, 1.0)
    front = opening - curtain * hanging
    azimuth = np.pi + part * (np.pi - front)  # 0 is the face
    elevation = np.radians(90.0) * (1.0 - on_skull) + 0.0 * part
    direction = np.stack(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], -1
    )
    offset = at - around
    radius = np.linalg.norm(offset, axis=1)
    _, near = cKDTree(offset / radius[:, None]).query(direction.reshape(-1, 3), k=8)
    reach = radius[near].max(axis=1).reshape(direction.shape[:2])
    for _ in range(2):
        reach = cv2.GaussianBlur(reach, (0, 0), 1.2)
    edge = heads.smoothstep(0.0, 0.25, 1.0 - np.abs(part))
    wave = rng.uniform(0, 0.05) * np.sin(hanging * rng.uniform(4, 14) + part * rng.uniform(0, 20))
    volume = rng.uniform(0.05, 0.22)
    reach = reach + unit * (
        -0.12 * (1.0 - edge) * (1 - hanging) + 0.02 + volume * edge * on_skull**0.5 + wave * hanging
    )
    reach = reach * (1.0 + rng.uniform(-0.25, 0.1) * hanging**1.5)
    points = around + direction * reach[..., None]
    ragged = 1.0 + 0.05 * rng.normal(size=part.shape)
    points[..., 1] -= hanging * ragged * length * unit
    strands = np.zeros_like(points)
    strands[..., 0], strands[..., 1] = part, top
    return points.reshape(-1, 3).astype(np.float32), strands.reshape(-1, 3).astype(np.float32)


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """(48, 48, 3) sRGB 0..255: a gradient with a few soft shapes."""
    size = 48
    v, u = np.mgrid[0:size, 0:size] / (size - 1.0)
    value, tint = rng.uniform(0.08, 0.95), rng.uniform(0.0, 0.4)
    base = value * (1.0 - tint * rng.random(3))
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * (u - 0.5) + np.sin(angle) * (v - 0.5)) * rng.uniform(0.0, 0.6)
    picture = base + slope[..., None] * rng.uniform(0.4, 1.0, 3)
    for _ in range(rng.integers(0, 6)):
        centre, spread = rng.uniform(0, 1, 2), rng.uniform(0.06, 0.35, 2)
        if rng.random() < 0.5:
            blob = np.exp(-(((u - centre[0]) / spread[0]) ** 2) - ((v - centre[1]) / spread[1]) ** 2)
        else:  # a soft-edged box
            away = np.maximum(np.abs(u - centre[0]) / spread[0], np.abs(v - centre[1]) / (2 * spread[1]))
            blob = 1.0 - heads.smoothstep(0.8, 1.2, away)
        picture += blob[..., None] * rng.normal(0, 0.10, 3) + blob[..., None] * rng.normal(0, 0.14)
    return (np.clip(picture, 0.02, 0.98) * 255.0).astype(np.float32)


def _light(rng: np.random.Generator) -> dict[str, Any]:
    """Directions and colours of a key light from the front, of sky and ground, and of a rim light from behind."""
    azimuth, elevation = rng.normal(0, 0.7), rng.uniform(0.0, 0.9)
    key = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    warmth = rng.normal(0, 0.07)
    strength = rng.uniform(0.55, 1.0)
    ambient = rng.uniform(0.22, 0.55)
    side = -1.0 if azimuth > 0 else 1.0
    return {
        "key_direction": key,
        "key_colour": strength * np.array([1 + warmth, 1.0, 1 - warmth]),
        "sky_colour": ambient * (1 + rng.normal(0, 0.06, 3)),
        "ground_colour": ambient * rng.uniform(0.35, 0.8) * (1 + rng.normal(0, 0.06, 3)),
        "rim_direction": np.array([side * 0.8, 0.25, -0.35]),
        "rim_colour": rng.uniform(0, 0.5) * (1 + rng.normal(0, 0.15, 3)),
    }


def _hairdo(
    rng: np.random.Generator, mesh: heads.Mesh, who: dict[str, Any], hairline: np.ndarray
) -> tuple[str, np.ndarray]:
    """Name of the style, and (V,) thickness of the hair in decimetres."""
    x, y, z = mesh.template.T
    male, african = who["male"], who["ancestry"][0]
    odds = np.array(
        [0.10 * male * (0.5 + who["age"]), 0.18 * male + 0.02, 0.30, 0.22, 0.25 * african, 0.50 * (1 - male) + 0.03]
    )
    style = STYLES[rng.choice(len(STYLES), p=odds / odds.sum())]
    thickness = {
        "bald": 0.0,
        "buzz": 0.03,
        "short": rng.uniform(0.06, 0.14),
        "thick": rng.uniform(0.14, 0.28),
        "afro": rng.uniform(0.2, 0.5),
        "long": rng.uniform(0.06, 0.15),
    }[style]
    grow = heads.smoothstep(0.0, 0.28 + 0.5 * thickness, hairline) * (1 - mesh.paint[:, 2]) * (mesh.part == heads.SKIN)
    near_ear = np.exp(-(((y - 7.1) / 0.4) ** 2) - ((z - 0.45) / 0.35) ** 2) * (np.abs(x) > 0.5)
    grow = grow * (1.0 - 0.8 * np.clip(near_ear, 0, 1))
    top = 1.0 if style == "afro" else 0.55 + 0.75 * heads.smoothstep(7.6, 8.4, y)
    swoop = 1.0 + rng.normal(0, 0.35) * np.clip(x / 0.6, -1, 1) * (style in ("short", "thick"))
    wobble = 1.0 + 0.12 * np.sin(x * rng.uniform(4, 12) + rng.uniform(0, 6)) * np.sin(z * rng.uniform(3, 10))
    return style, grow * top * np.clip(swoop, 0.3, 2) * wobble * thickness


def _clothes(rng: np.random.Generator, mesh: heads.Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(V,) distance below the collar's edge in decimetres, and (V,) thickness of the fabric."""
    x, y, z = mesh.template.T
    collar = rng.choice([5.72, 5.85, 6.05], p=[0.45, 0.4, 0.15]) + rng.normal(0, 0.04)
    plunge = rng.uniform(0, 0.5) if collar < 5.8 else 0.0
    cloth = collar - plunge * np.clip(1 - np.abs(x) / 0.5, 0, 1) * (z > 0.2) - (y - 0.12 * (z - 0.2)) + 0.1 * np.abs(x)
    covered = (y < 6.4) & (z < 0.95)  # a high collar reaches as high as the underside of the chin
    fabric = heads.smoothstep(0.0, 0.06, cloth) * (mesh.part == heads.SKIN) * covered * rng.uniform(0.02, 0.06)
    return np.where(covered, cloth, -1.0).astype(np.float32), fabric


def _complexion(rng: np.random.Generator, who: dict[str, Any], style: str) -> dict[str, Any]:
    """Shader uniforms of skin, hair, brows, beard, eyes and clothes; colours are linear."""
    male, european = who["male"], who["ancestry"][2]
    colour = _skin(rng, who)
    hair = _hair_colour(rng, who)
    painted = (1 - male) * rng.random() < 0.35
    lip_target = np.array([0.62, 0.16, 0.18]) if painted else np.array([0.62, 0.30, 0.28])
    lip = colour * (1 - (mix := rng.uniform(0.25, 0.65))) + mix * lip_target * (0.45 + 0.55 * colour.mean() / 0.7)
    iris = IRIS_COLOURS[rng.integers(len(IRIS_COLOURS)) if rng.random() < european else rng.integers(3)]
    bearded = male > 0.5 and rng.random() < 0.55
    beard = rng.choice([0.35, 0.6, 0.95]) if bearded else 0.0
    saturation = rng.uniform(0.0, 0.8)
    clothing = rng.uniform(0.04, 0.9) * (1 - saturation * rng.random(3))
    curly, density = style in ("afro", "buzz"), {"bald": 0.18, "buzz": 0.8}.get(style, 1.0)
    return {
        "skin_colour": linear(colour),
        "lip_colour": linear(lip),
        "hair_colour": linear(hair),
        "brow_colour": linear(hair * rng.uniform(0.5, 0.9)),
        "iris_colour": linear(iris),
        "cloth_colour": linear(clothing),
        # half height, lift, arch in decimetres; density
        "brow": np.array(
            [rng.uniform(0.035, 0.075), rng.normal(0, 0.02), rng.uniform(0.02, 0.10), rng.uniform(0.5, 1.0)]
        ),
        # density, upper limit in decimetres, moustache, cheeks
        "beard": np.array([beard, rng.uniform(-0.05, 0.15), rng.choice([0.0, 1.0]), rng.choice([0.0, 1.0])]),
        # density, gloss, curly, direction of the parting
        "hair": np.array([density, rng.uniform(0.15, 0.6), float(curly), rng.uniform(0, 2 * np.pi)]),
        # unevenness, red cheeks and nose, offset in the noise, spots
        "blotch": np.array(
            [
                rng.uniform(0.02, 0.16),
                rng.uniform(0.0, 0.25) * (european > 0.4),
                rng.uniform(0, 9),
                rng.uniform(0.0, 0.35) * (1 + who["age"]) / 2,
            ]
        ),
        "gloss": rng.uniform(0.08, 0.35),
    }


def identity(index: int, seed: int = 0) -> Identity:
    """Person number `index` of the set `seed`. The same numbers give the same person."""
    rng = np.random.default_rng([seed, index])
    mesh = heads.load()
    vertices, who = _shape(rng, mesh)
    template, start = mesh.template, mesh.shell_start
    rest = np.zeros_like(template)
    rest[:start] = vertices[mesh.kept >= 0]

    balls = [rest[ball].mean(axis=0) for ball in mesh.eyes]
    middle = (balls[0] + balls[1]) / 2
    span, chin = np.linalg.norm(balls[0] - balls[1]), middle[1] - rest[mesh.chin, 1]
    width = (span / EYE_SPAN + chin / CHIN_SPAN) / 2
    unit = 1.0 / (width * (1.0 + rng.uniform(-0.06, 0.06)))  # picture widths per decimetre
    rest = (rest - middle) * unit
    pivot = (vertices[heads.HEAD_JOINT].mean(axis=0) - middle) * unit

    local = np.zeros_like(rest)
    for ball in mesh.eyes:
        offset = rest[ball] - rest[ball].mean(axis=0)
        local[ball] = offset / np.linalg.norm(offset, axis=1, keepdims=True)
        rest[ball, 2] -= np.float32(0.012 * unit)  # so that lids close over it
    rest += np.float32(unit) * _lips_together(rest / np.float32(unit), mesh)
    # Teeth must not show through nearly closed lips, and the tongue lies behind the teeth.
    rest[mesh.part == heads.TEETH] -= np.array([0, 0, 0.06 * unit], np.float32)
    rest[mesh.part == heads.TONGUE] -= np.array([0, 0.04 * unit, 0.14 * unit], np.float32)

    hairline = _hairline(rng, template, who)
    normals = heads.vertex_normals(rest, mesh.triangles, mesh.normal_sum)
    style, volume = _hairdo(rng, mesh, who, hairline)
    cloth, fabric = _clothes(rng, mesh)
    skull = rest + normals * (fabric * unit)[:, None].astype(np.float32)
    rest = rest + normals * (volume * unit)[:, None].astype(np.float32)
    rest = rest + normals * (fabric * unit)[:, None].astype(np.float32)
    if style == "long":
        y, skin = template[:, 1], mesh.part == heads.SKIN
        scalp = skin & (y > 6.9) & ((hairline > -0.1) | (mesh.paint[:, 2] > 0.5))
        around = rest[skin & (y > 7.1) & (hairline > 0)].mean(axis=0)
        around[1] = rest[skin & (np.abs(y - 7.25) < 0.1) & (template[:, 2] < 0.9), 1].mean()
        rest[start:], local[start:] = _drape(rng, rest[scalp], around, unit, rng.uniform(0.4, 2.4))

    uniforms = {**_complexion(rng, who, style), **_light(rng)}
    bare_ears = hairline - mesh.paint[:, 2]  # the hairline runs behind them
    paint = np.stack([bare_ears, cloth, mesh.paint[:, 0], mesh.paint[:, 1]], 1)
    return Identity(
        rest=rest.astype(np.float32),
        unit=float(unit),
        pivot=pivot.astype(np.float32),
        paint=paint.astype(np.float32),
        local=local.astype(np.float32),
        gaze=rng.normal(0, 0.035, 2),
        shell=style == "long",
        uniforms=uniforms,
        backdrop=_backdrop(rng),
        number=(seed, index),
        traits={**who, "style": style},
        skull=skull.astype(np.float32),
        distance=float(np.exp(rng.uniform(np.log(2.2), np.log(6.0)))),
        centre=np.array([0.5, EYE_HEIGHT]) + rng.uniform(-0.03, 0.03, 2),
    )
