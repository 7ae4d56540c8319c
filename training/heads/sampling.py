"""Random coefficients for portraits and for frames of people who talk and act."""

from __future__ import annotations

import numpy as np

from training.units import BANKS, EMOTIONS, EXPRESSION, NAMES, POSE_COLUMNS, UNITS, emotion_vector

INDEX = {name: position for position, name in enumerate(NAMES)}
EXP = slice(POSE_COLUMNS.stop, len(UNITS))
PORTRAITS = 3  # first frames of each person; the first of them is exactly at rest
GAZE_LIMITS = np.radians((35.0, 25.0))  # furthest turn of the eyes sideways, and up and down
SWAY = 0.45  # standard deviation of a driven frame's pose coefficients
SHAPES = (  # lip units that speech uses together; one row is chosen per frame
    ("mouthFunnel", "mouthPucker"),
    ("mouthPucker", "mouthShrugUpper"),
    ("mouthFunnel", "mouthUpperUp", "mouthLowerDown"),
    ("mouthStretch", "mouthDimple"),
    ("mouthStretch", "mouthLowerDown"),
    ("mouthUpperUp", "mouthLowerDown"),
    ("mouthPress", "mouthRollLower", "mouthRollUpper"),
    ("mouthRollLower", "mouthUpperUp"),
    ("mouthPress", "mouthDimple"),
    ("mouthShrugLower", "mouthShrugUpper"),
    ("jawForward", "mouthFunnel"),
    ("mouthLowerDown",),
    ("mouthDimple", "mouthUpperUp"),
)


def portrait(rng: np.random.Generator) -> np.ndarray:
    """(36,) float32 of a portrait that is not quite at rest."""
    values = np.zeros(len(UNITS))
    values[POSE_COLUMNS] = rng.normal(0, 0.15, BANKS[1][1])
    if rng.random() < 0.3:
        values[INDEX["jawOpen"]] = rng.uniform(0, 0.1)
    if rng.random() < 0.3:
        values[INDEX[rng.choice(["mouthPress", "mouthShrugLower", "mouthPucker", "mouthDimple"])]] = rng.uniform(0, 0.2)
    values[EXP] = _expression(rng, 0.5)
    values[INDEX["eyeBlink"]] = min(values[INDEX["eyeBlink"]], 0.2)
    return limited(values)


def driven(rng: np.random.Generator, sway: float = SWAY) -> np.ndarray:
    """(36,) float32 of a frame of a person who talks and acts; one in ten moves a single unit.

    sway: deviation of the pose coefficients.
    """
    values = np.zeros(len(UNITS))
    if rng.random() < 0.1:
        which = int(rng.integers(len(UNITS)))
        values[which] = rng.uniform(UNITS[which].soft_min, UNITS[which].soft_max)
        return values.astype(np.float32)
    values[POSE_COLUMNS] = np.clip(rng.normal(0, sway, BANKS[1][1]), -1, 1)
    jaw = rng.beta(0.9, 1.5) if rng.random() < 0.9 else 0.0
    values[INDEX["jawOpen"]] = jaw
    if rng.random() < 0.2:
        values[INDEX["mouthClose"]] = jaw * (1.0 if rng.random() < 0.5 else rng.random())
    strength = rng.beta(1.3, 1.3)
    for name in SHAPES[rng.integers(len(SHAPES))]:
        values[INDEX[name]] = strength * rng.uniform(0.5, 1.0)
    for name in rng.choice(NAMES[6:19], rng.integers(0, 3), replace=False):
        if name not in ("jawLeft", "jawRight", "cheekPuff"):
            values[INDEX[name]] = max(values[INDEX[name]], rng.beta(1, 2))
    for sides, chance in ((("mouthLeft", "mouthRight"), 0.2), (("jawLeft", "jawRight"), 0.2)):
        if rng.random() < chance:
            values[INDEX[sides[rng.integers(2)]]] = rng.beta(1.2, 1.6)
    if rng.random() < 0.06:
        values[INDEX["cheekPuff"]] = rng.random()
        values[INDEX["jawOpen"]] *= 0.2
    if rng.random() < 0.04:
        values[INDEX["tongueOut"]] = rng.random()
        values[INDEX["jawOpen"]] = max(values[INDEX["jawOpen"]], 0.35)
    values[EXP] = _expression(rng, 1.2)
    if rng.random() < 0.2:
        values[INDEX["eyeBlink"]] = rng.beta(2, 0.8)
    return limited(values)


def _expression(rng: np.random.Generator, strongest: float) -> np.ndarray:
    """(10,) expression, at most `strongest`: in half of the cases a blend of two emotions, else a few single units."""
    if rng.random() < 0.5:
        one, other = (np.array(emotion_vector(name)) for name in rng.choice(list(EMOTIONS), 2))
        share = rng.beta(0.5, 0.5)
        return np.minimum(rng.uniform(0, strongest) * ((1 - share) * one + share * other), strongest)
    values = np.zeros(len(EXPRESSION))
    picked = rng.choice(len(EXPRESSION), rng.integers(0, 5), replace=False)
    values[picked] = rng.random(len(picked)) * min(strongest, 1.0)
    return values


def limited(values: np.ndarray) -> np.ndarray:
    """(36,) float32, with combinations reduced that would make the mesh intersect itself."""
    values = values.copy()

    def cap(names: tuple[str, ...], most: float) -> None:
        index = [INDEX[name] for name in names]
        values[index] *= min(1.0, most / max(values[index].sum(), 1e-9))

    cap(("mouthFunnel", "mouthPucker"), 1.2)
    cap(("mouthSmile", "mouthFrown"), 1.2)
    cap(("mouthSmile", "mouthStretch", "mouthDimple"), 1.4)
    cap(("mouthSmile", "mouthPucker"), 1.3)
    cap(("mouthFrown", "mouthStretch", "mouthLowerDown"), 1.6)
    cap(("mouthRollUpper", "mouthUpperUp", "mouthShrugUpper"), 1.2)
    cap(("mouthRollLower", "mouthLowerDown", "mouthShrugLower"), 1.2)
    cap(("browDown", "browInnerUp"), 1.3)
    cap(("browDown", "browOuterUp"), 1.3)
    cap(("eyeBlink",), 1.0)
    # Squinting and raised cheeks lift the lower lid, so a smaller blink closes the eye.
    cap(("eyeBlink", "eyeSquint"), 1.15)
    values[INDEX["eyeWide"]] *= 1.0 - values[INDEX["eyeBlink"]]
    lips = [INDEX[name] for name in NAMES[2:17]]
    values[lips] *= min(1.0, 2.2 / max(values[lips].sum(), 1e-9))
    values[INDEX["mouthClose"]] = min(values[INDEX["mouthClose"]], values[INDEX["jawOpen"]])
    values[POSE_COLUMNS] = np.clip(values[POSE_COLUMNS], -1, 1)
    return values.astype(np.float32)


def coefficients(index: int, count: int, seed: int = 0, sway: float = SWAY) -> np.ndarray:
    """(count, 36) float32 for the frames of person `index`: one at rest, two portraits, the others driven."""
    rng = np.random.default_rng([seed, index, 1])
    rows = [np.zeros(len(UNITS), np.float32)]
    rows += [portrait(rng) if k < PORTRAITS else driven(rng, sway) for k in range(1, count)]
    return np.stack(rows)


def gazes(index: int, count: int, seed: int, deviation: float) -> np.ndarray:
    """(count, 2) float32 radians by which the eyes of person `index` turn to the picture's right and up in each frame.

    deviation: degrees sideways; half as many up and down. The first frame looks at the camera, as do a third of the
    others.
    """
    rng = np.random.default_rng([seed, index, 3])
    turned = np.clip(rng.normal(0, np.radians(deviation), (count, 2)) * [1.0, 0.5], -GAZE_LIMITS, GAZE_LIMITS)
    turned *= rng.random((count, 1)) < 2 / 3
    turned[:1] = 0.0
    return turned.astype(np.float32)
