"""Convert decoded frames of a clip to sRGB pictures, whatever their colour system and pixel aspect.

High dynamic range (PQ and HLG of BT.2100) is tone-mapped: its reference white of 203 nits becomes nearly white, darker
colours keep their brightness, and brighter ones are compressed into the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError

if TYPE_CHECKING:
    import av

# Numbers of ITU-T H.273, as FFmpeg reports them.
_UNTAGGED, _RESERVED = 2, 3
_PQ, _HLG = 16, 18
_DISPLAY_P3, _BT2020 = 12, 9
_WIDE = {_BT2020: "BT.2020", _DISPLAY_P3: "P3"}
# RGB, BT.709, untagged, reserved, FCC, both of BT.601, SMPTE 240M, BT.2020: FFmpeg's converter fails for others.
_MATRICES = (0, 1, _UNTAGGED, _RESERVED, 4, 5, 6, 7, 9)

WHITE_NITS = 203  # reference white of PQ (BT.2408)
# Linear scene light at HLG's reference white, a signal of 0.75. The system gamma is 1, BT.2100's value for a display of
# 334 nits, so that mid grey stays as bright as in the SDR picture of the same camera.
HLG_WHITE = 0.265
KNEE = 0.8  # linear light, 1 is reference white: darker colours are not changed by the tone curve
_BAND = 64  # rows that are converted at a time, which bounds the memory and suits the processor's cache

# Linear RGB -> linear RGB of BT.709, row by row.
TO_BT709 = {
    "BT.2020": ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)),
    "P3": ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}


def check_colours(frame: av.VideoFrame, codec_tag: str, name: str) -> None:
    """Raise EDTalkError(kind="media") if the colours of a clip cannot be converted. name: the clip, for the message."""
    system = ""
    if codec_tag in ("dvh1", "dvhe", "dav1") and frame.color_trc == _UNTAGGED:
        system = "Dolby Vision without an HDR10 or HLG base"
    elif frame.colorspace not in _MATRICES:
        system = f"colour matrix {frame.colorspace} of ITU-T H.273"
    if system:
        message = f"{name} cannot be used: expected colours of BT.601, BT.709, BT.2020, HDR10 or HLG, found {system}."
        raise EDTalkError(message, "Export it as H.264 with BT.709 colours.", "media")


def transfer_of(frame: av.VideoFrame) -> str:
    """The transfer function of an HDR frame, "pq" or "hlg"; "" for standard range."""
    return {_PQ: "pq", _HLG: "hlg"}.get(frame.color_trc, "")


def to_srgb(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """A frame as an sRGB picture of `width` x `height` pixels, uint8 (height, width, 3), not rotated."""
    # Untagged clips: players take HD as BT.709 and smaller ones as BT.601, which is FFmpeg's own default.
    untagged_hd = frame.colorspace in (_UNTAGGED, _RESERVED) and frame.height >= 720
    matrix = "ITU709" if untagged_hd else "ITU601" if frame.colorspace == _RESERVED else None
    scaling = None if (width, height) == (frame.width, frame.height) else "BICUBIC"
    hdr, wide = frame.color_trc in (_PQ, _HLG), frame.color_primaries in _WIDE
    deep = "rgb48le" if hdr or wide else "rgb24"
    pixels = frame.reformat(width, height, deep, src_colorspace=matrix, interpolation=scaling).to_ndarray()
    if not (hdr or wide):
        return pixels
    # BT.2100 is always BT.2020; some files leave the primaries of HDR untagged.
    primaries = frame.color_primaries if wide else _BT2020
    return _converted(pixels, frame.color_trc if hdr else 0, primaries)


def _converted(signal: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """uint16 (H, W, 3) with `primaries` -> uint8 sRGB (H, W, 3). transfer: _PQ, _HLG or 0 for standard range."""
    light_of, level_of = _light_of(transfer), _srgb_of()
    matrix = np.array(TO_BT709[_WIDE[primaries]], np.float32).T
    result = np.empty(signal.shape, np.uint8)
    for top in range(0, len(signal), _BAND):
        light = np.maximum(light_of[signal[top : top + _BAND]] @ matrix, 0)
        if transfer:
            brightest = light.max(axis=2, keepdims=True)
            light *= _compressed(brightest) / np.maximum(brightest, np.float32(1e-6))
        result[top : top + _BAND] = level_of[np.rint(np.minimum(light, 1) * np.float32(65535)).astype(np.uint16)]
    return result


def _compressed(light: np.ndarray) -> np.ndarray:
    """The tone curve: linear light up to the knee, then a hyperbola with the same slope that approaches 1."""
    room = np.float32(1 - KNEE)
    return np.where(light > KNEE, 1 - room * room / np.maximum(light + room - np.float32(KNEE), room), light)


@lru_cache(maxsize=3)
def _light_of(transfer: int) -> np.ndarray:
    """Linear light of each 16-bit signal, float32 (65536,); 1 is reference white."""
    decode: dict[int, Callable[[np.ndarray], np.ndarray]] = {_PQ: _pq_light, _HLG: _hlg_light, 0: _srgb_light}
    return decode[transfer](np.arange(65536) / 65535).astype(np.float32)


@lru_cache(maxsize=1)
def _srgb_of() -> np.ndarray:
    """sRGB level of each 16-bit linear light, uint8 (65536,)."""
    light = np.arange(65536) / 65535
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(levels * 255).astype(np.uint8)


def srgb_levels(light: np.ndarray) -> np.ndarray:
    """Linear light, 1 is white, to uint8 sRGB; light above white is clipped."""
    return _srgb_of()[np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)]


def linear_light(levels: np.ndarray) -> np.ndarray:
    """uint8 sRGB to linear light, float32."""
    return _srgb_light(np.arange(256) / 255).astype(np.float32)[levels]


def _srgb_light(signal: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1; also for the camera curves of BT.709 and BT.2020, because clips are shown as sRGB elsewhere."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    nits = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return nits / WHITE_NITS


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """ARIB STD-B67."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) / HLG_WHITE


def pq_signal(light: np.ndarray) -> np.ndarray:
    """The inverse of `_pq_light`: signal 0 to 1 of linear light, 1 at `WHITE_NITS`; any shape."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (light * WHITE_NITS / 10000) ** m1
    return np.minimum(((c1 + c2 * power) / (1 + c3 * power)) ** m2, 1)


def hlg_signal(light: np.ndarray) -> np.ndarray:
    """The inverse of `_hlg_light`: signal 0 to 1 of linear light; any shape."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = light * HLG_WHITE
    bright = a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    return np.minimum(np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright), 1)
