"""Colours of pictures that are laid over an HDR movie in Blender, which shows such movies in its own way.

The engine converts HDR to sRGB with a tone curve, see `colour`. With the view transform Standard, Blender 5 shows
linear light in which 100 nits are white, and clips brighter light. Blender 4.5 shows the stored signal as sRGB.
"""

from __future__ import annotations

import numpy as np

from .colour import HLG_WHITE, KNEE, TO_BT709, WHITE_NITS, hlg_signal, linear_light, pq_signal, srgb_levels

_WHITE = 100  # nits that Blender 5 shows as white
_HLG_PEAK, _HLG_GAMMA = 1000, 1.2  # nits and system gamma of the display that Blender 5 assumes for HLG
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709
_LIMIT = 1 - 0.5 / 255  # the tone curve reaches 1 at infinity
_TO_BT2020 = np.linalg.inv(np.array(TO_BT709["BT.2020"])).astype(np.float32)


def displayed(pixels: np.ndarray, display: str) -> np.ndarray:
    """Convert a picture of an HDR movie to the colours in which Blender shows the movie.

    pixels: uint8 (H, W, 3 or 4) as `colour.to_srgb` gives it; alpha is kept. display: see `contract.plate.DISPLAYS`.
    """
    light = _scene_light(pixels[..., :3])
    if display == "pq":
        shown = srgb_levels(light * (WHITE_NITS / _WHITE))
    elif display == "hlg":
        scene = light * HLG_WHITE
        luminance = np.maximum(scene @ _LUMINANCE, 1e-9)[..., None]
        shown = srgb_levels(scene * luminance ** (_HLG_GAMMA - 1) * (_HLG_PEAK / _WHITE))
    else:
        signal = pq_signal if display == "pq signal" else hlg_signal
        shown = np.rint(signal(np.maximum(light @ _TO_BT2020.T, 0)) * 255).astype(np.uint8)
    return np.concatenate([shown, pixels[..., 3:]], axis=2)


def _scene_light(levels: np.ndarray) -> np.ndarray:
    """Linear light, float32, 1 is reference white, of tone-mapped uint8 sRGB: the inverse of the tone curve."""
    light = linear_light(levels)
    brightest = np.minimum(light.max(axis=2, keepdims=True), _LIMIT)
    room = 1 - KNEE
    before = np.where(brightest > KNEE, room * room / (1 - brightest) - room + KNEE, brightest)
    return light * (before / np.maximum(brightest, 1e-6)).astype(np.float32)
