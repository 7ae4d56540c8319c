"""The starter bank's 38 coefficients, shared by the head renderer, the training stages and the bank's metadata.

A face unit ranges from 0 (off) to 1 (fully on) and has its ARKit name; where ARKit has a left and a right unit, both
move together. A pose coefficient of 1 is the amount stated in its `unit`. The rest value of all coefficients is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Unit:
    """One coefficient.

    arkit: ARKit face units that it combines. soft_min, soft_max: usual range. unit: meaning of the value 1.0 in words.
    degrees: angle at the value 1.0, for head rotations; 0 for other coefficients.
    """

    name: str
    arkit: tuple[str, ...] = ()
    soft_min: float = 0.0
    soft_max: float = 1.0
    unit: str = ""
    degrees: float = 0.0


def _single(name: str) -> Unit:
    return Unit(name, (name,))


def _paired(name: str) -> Unit:
    return Unit(name, (f"{name}Left", f"{name}Right"))


LIP = (
    _single("jawOpen"),
    _single("mouthClose"),
    _single("mouthFunnel"),
    _single("mouthPucker"),
    _single("mouthLeft"),
    _single("mouthRight"),
    _single("mouthRollLower"),
    _single("mouthRollUpper"),
    _single("mouthShrugLower"),
    _single("mouthShrugUpper"),
    _paired("mouthLowerDown"),
    _paired("mouthUpperUp"),
    _paired("mouthStretch"),
    _paired("mouthPress"),
    _paired("mouthDimple"),
    _single("jawForward"),
    _single("jawLeft"),
    _single("jawRight"),
    _single("cheekPuff"),
    _single("tongueOut"),
)
POSE = (
    Unit("headYaw", (), -1.0, 1.0, "30 degrees, positive towards picture right", 30),
    Unit("headPitch", (), -1.0, 1.0, "20 degrees, positive looks down", 20),
    Unit("headRoll", (), -1.0, 1.0, "20 degrees, positive clockwise in the picture", 20),
    Unit("headShiftX", (), -1.0, 1.0, "8 % of the picture's width, positive right"),
    Unit("headShiftY", (), -1.0, 1.0, "8 % of the picture's height, positive down"),
    Unit("headScale", (), -1.0, 1.0, "12 % larger"),
)
POSE_COLUMNS = slice(len(LIP), len(LIP) + len(POSE))
SHIFT, SCALE = 0.08, 0.12  # picture widths, and share of the head's size, at a coefficient of 1
EXPRESSION = (
    _paired("browDown"),
    _single("browInnerUp"),
    _paired("browOuterUp"),
    _paired("eyeBlink"),
    _paired("eyeWide"),
    _paired("eyeSquint"),
    _paired("cheekSquint"),
    _paired("mouthSmile"),
    _paired("mouthFrown"),
    _paired("noseSneer"),
)
UNITS = LIP + POSE + EXPRESSION
NAMES = tuple(unit.name for unit in UNITS)
# Gaze, which the rendered heads have but no network learns: `inference.model.gaze` draws it.
EYE = (
    Unit("eyeYaw", (), -1.0, 1.0, "25 degrees, positive towards picture right"),
    Unit("eyePitch", (), -1.0, 1.0, "20 degrees, positive looks down"),
)
# Weights of ARKit's units, of which 1 turns an eye by 30 degrees, see `inference.contract.eyes`.
EYE_ARKIT = (
    {"eyeLookOutLeft": 0.6, "eyeLookInRight": 0.6, "eyeLookInLeft": -0.6, "eyeLookOutRight": -0.6},
    {"eyeLookDownLeft": 0.75, "eyeLookDownRight": 0.75, "eyeLookUpLeft": -0.75, "eyeLookUpRight": -0.75},
)
BANKS = (("lip", len(LIP)), ("pose", len(POSE)), ("exp", len(EXPRESSION)))

# Effect of mirroring a picture: these coefficients change places, and these change sign.
MIRROR_SWAP = (("mouthLeft", "mouthRight"), ("jawLeft", "jawRight"))
MIRROR_NEGATE = ("headYaw", "headRoll", "headShiftX")

# Expression vectors by unit name; units that are not listed are 0. `eyeSquint` and `eyeBlink` redraw the lids, and can
# touch brows that are low over the eyes, so they are used where the emotion needs them only.
EMOTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "angry": {"browDown": 1.0, "eyeWide": 0.3, "noseSneer": 0.6, "mouthFrown": 0.5},
    "contempt": {"browOuterUp": 0.6, "eyeBlink": 0.25, "noseSneer": 0.3, "mouthSmile": 0.35},
    "disgusted": {"browDown": 0.25, "cheekSquint": 1.2, "noseSneer": 1.4, "mouthFrown": 1.0},
    "fear": {"browInnerUp": 1.3, "eyeWide": 1.3, "mouthFrown": 0.7},
    "happy": {"mouthSmile": 1.0, "cheekSquint": 0.9, "browOuterUp": 0.1},
    "sad": {"browInnerUp": 1.0, "eyeBlink": 0.25, "mouthFrown": 1.0},
    "surprised": {"browInnerUp": 1.0, "browOuterUp": 1.3, "eyeWide": 1.0},
}


def emotion_vector(name: str) -> list[float]:
    """The 10 expression coefficients of a preset, in bank order."""
    return [EMOTIONS[name].get(unit.name, 0.0) for unit in EXPRESSION]


def mirror_table() -> tuple[Tensor, Tensor]:
    """(36,) order and (36,) sign: coefficient `order[k]` times `sign[k]` is coefficient k of the mirrored picture."""
    order, sign = list(range(len(NAMES))), torch.ones(len(NAMES))
    for left, right in MIRROR_SWAP:
        a, b = NAMES.index(left), NAMES.index(right)
        order[a], order[b] = b, a
    for name in MIRROR_NEGATE:
        sign[NAMES.index(name)] = -1.0
    return torch.tensor(order), sign


def mirrored(coefficients: Tensor) -> Tensor:
    """(N, 36) of the mirrored pictures; also for differences of coefficients."""
    order, sign = mirror_table()
    return coefficients[:, order] * sign


def in_coefficient_units(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An equivalent generator state with latents ALPHA_GAIN times smaller, so that alpha equals the coefficient.

    Exact: weights that produce latents (the encoder's last convolution, the heads' biases) are divided, weights that
    take latents as input are multiplied.
    """
    last = max(int(name.split(".")[3]) for name in state if name.startswith("enc.net_app.convs."))
    result = {}
    for name, tensor in state.items():
        produces = name == f"enc.net_app.convs.{last}.weight" or (
            name.split(".")[0].endswith("fc") and name.endswith("bias")
        )
        consumes = name.endswith(("modulation.weight", "mlp_shared.0.weight"))
        factor = 1.0 / ALPHA_GAIN if produces else ALPHA_GAIN if consumes else 1.0
        result[name] = tensor * factor
    return result


# During training the generator's alpha is the coefficient times this, so that a face unit at 1 changes the latent by
# about as much as another person does. `training.export` folds the factor into the weights.
ALPHA_GAIN = 6.0
