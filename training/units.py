"""What the starter bank's 36 coefficients mean, shared by the head renderer, the trainers and the bank's metadata.

A face unit is 0 (off) to 1 (fully on) and has its ARKit name; left and right move together where ARKit has two.
A pose coefficient is 1 at the amount its `unit` states. All rest at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Unit:
    """One coefficient: its name, the ARKit face units it drives, its soft range and what 1.0 amounts to.

    degrees: what 1.0 amounts to for a rotation of the head, which ARKit measures too.
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
SHIFT, SCALE = 0.08, 0.12  # picture widths, and share of the size, at a coefficient of 1
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
BANKS = (("lip", len(LIP)), ("pose", len(POSE)), ("exp", len(EXPRESSION)))

# One expression vector each, by unit name; what is not named is 0.
EMOTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "angry": {"browDown": 1.0, "eyeWide": 0.3, "noseSneer": 0.6, "mouthFrown": 0.5},
    "contempt": {"browDown": 0.25, "eyeSquint": 0.6, "noseSneer": 0.35, "mouthSmile": 0.3, "mouthFrown": 0.35},
    "disgusted": {"browDown": 0.6, "eyeSquint": 0.7, "cheekSquint": 0.5, "noseSneer": 1.0, "mouthFrown": 0.7},
    "fear": {"browInnerUp": 1.0, "browOuterUp": 0.4, "eyeWide": 1.0, "mouthFrown": 0.4},
    "happy": {"mouthSmile": 1.0, "cheekSquint": 0.7, "eyeSquint": 0.3, "browOuterUp": 0.1},
    "sad": {"browInnerUp": 0.9, "browDown": 0.2, "eyeBlink": 0.25, "mouthFrown": 1.0},
    "surprised": {"browInnerUp": 0.8, "browOuterUp": 1.0, "eyeWide": 0.9},
}


def emotion_vector(name: str) -> list[float]:
    """The preset as 10 expression coefficients in bank order."""
    return [EMOTIONS[name].get(unit.name, 0.0) for unit in EXPRESSION]


def in_coefficient_units(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same generator with latents ALPHA_GAIN times smaller, so that alpha is the coefficient itself.

    Exact: what makes a latent (the encoder's last convolution, the heads' offsets) shrinks, what reads one grows.
    """
    last = max(int(name.split(".")[3]) for name in state if name.startswith("enc.net_app.convs."))
    result = {}
    for name, tensor in state.items():
        makes_latent = name == f"enc.net_app.convs.{last}.weight" or (
            name.split(".")[0].endswith("fc") and name.endswith("bias")
        )
        reads_latent = name.endswith(("modulation.weight", "mlp_shared.0.weight"))
        factor = 1.0 / ALPHA_GAIN if makes_latent else ALPHA_GAIN if reads_latent else 1.0
        result[name] = tensor * factor
    return result


# The network's alpha is a coefficient times this, so that a face unit at 1 visibly moves the latent against the
# source's own; `training.export` folds it into the weights again.
ALPHA_GAIN = 6.0
