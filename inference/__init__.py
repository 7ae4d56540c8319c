"""EDTalk: talking-head animation from a portrait, driven by 36 named coefficients per frame.

    bank = load_bank()                                  # the embedded starter bank
    renderer = FaceRenderer(bank)
    renderer.set_source(load_portrait("me.png"))        # uint8 (512, 512, 3)
    rows = renderer.moved({"jawOpen": opening})         # relative to the portrait's own pose
    for frame in renderer.render(rows): ...             # uint8 (size, size, 3)

`python -m inference` offers the same on the command line. Names are imported at first use, so programs that only read
coefficients, such as Blender, do not need torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# OpenMP threads that wait by spinning make a small frame 20 times slower while Blender uses the cores as well. Threads
# that sleep at once double the time of a frame that has many small steps. Therefore they spin briefly. OpenMP reads the
# variables once, so they are set before torch is imported. They are not set in Blender's process, where the package has
# another name and torch is never imported.
if __name__ == "inference":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from .contract.bank import Bank, load_bank
    from .contract.coefficients import Coefficients
    from .contract.emotion import EmotionCurve
    from .contract.errors import EDTalkError
    from .face.framing import load_portrait
    from .lipsync import lip_sync
    from .motion import head_motion
    from .renderer import FaceRenderer

__version__ = "0.1.0"
__all__ = [
    "Bank",
    "Coefficients",
    "EDTalkError",
    "EmotionCurve",
    "FaceRenderer",
    "head_motion",
    "lip_sync",
    "load_bank",
    "load_portrait",
]

_HOME = {
    "Bank": "contract.bank",
    "Coefficients": "contract.coefficients",
    "EDTalkError": "contract.errors",
    "EmotionCurve": "contract.emotion",
    "FaceRenderer": "renderer",
    "head_motion": "motion",
    "lip_sync": "lipsync",
    "load_bank": "contract.bank",
    "load_portrait": "face.framing",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
