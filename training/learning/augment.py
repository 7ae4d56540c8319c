"""Augmentation of training pictures. Stages choose which functions to use, and their ranges.

Exposure, relit    colour gain and offset; gamma, saturation and skin tone
Crop               random shift and scale, to simulate imprecise face crops
blurred, with_noise, filmed, downscaled, compressed, photographed, recorded_pair    camera and video codec
repaint_eyes       lashes and eye shadow

Tensors are (N, C, H, W) with values in [-1, 1]; arrays are uint8 (H, W, 3).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.refiner import pixel_positions

from ..units import NAMES, POSE_COLUMNS, SCALE, SHIFT

PLACE = [NAMES.index(f"head{what}") for what in ("ShiftX", "ShiftY", "Scale")]


# -------------------------------------------------------------------------------------------------------- colour


@dataclass(frozen=True)
class Exposure:
    """Colour gain (N, 3) and offset (N,) of N people, float32, for values in [-1, 1]; the identity is gain 1, offset 0.

    All pictures of a person get the same exposure.
    """

    gain: np.ndarray
    offset: np.ndarray

    @staticmethod
    def random(
        count: int,
        rng: np.random.Generator,
        gain: tuple[float, float] = (0.6, 1.3),
        offset: float = 0.3,
        shared: float = 0.5,
    ) -> Exposure:
        """Gain uniform in the given range, offset in +-offset. shared: 0 for independent channels, 1 for grey."""
        gains = rng.uniform(*gain, (count, 3))
        gains = (1.0 - shared) * gains + shared * gains.mean(1, keepdims=True)
        return Exposure(gains.astype(np.float32), rng.uniform(-offset, offset, count).astype(np.float32))

    def apply(self, pictures: Tensor) -> Tensor:
        """pictures: (N * K, 3, H, W), K per person in a row; the result is not clamped."""
        each = len(pictures) // len(self.gain)
        gain, offset = (torch.from_numpy(part).repeat_interleave(each, 0) for part in (self.gain, self.offset))
        return pictures * gain[:, :, None, None] + offset[:, None, None, None]

    def apply_to_array(self, picture: np.ndarray, row: int, brightness: float = 1.0) -> np.ndarray:
        """The exposure of person `row`: uint8 (H, W, 3) -> float32, nominally in [-1, 1]. brightness: further gain."""
        gain = self.gain[row] * np.float32(brightness)
        return picture * (gain / np.float32(127.5)) + (self.offset[row] - gain)


def brightness_changes(count: int, rng: np.random.Generator, deviation: float = 0.04) -> np.ndarray:
    """(count,) float32 gains by which a frame may differ from the same person's portrait, log-normal."""
    return np.exp(rng.normal(0, deviation, count)).astype(np.float32)


GAMMA, SATURATION = 0.45, 0.4  # logarithms, at most
LIGHT = 0.12  # logarithm of the gain of a channel, at most: photographs are white-balanced
SKIN_TINT = 0.16  # change of skin colour, at most, as a share of full intensity
SKIN_RANGE = 0.16  # difference of intensity from the cheeks at which a pixel hardly counts as skin


def relit(source: Tensor, driving: Tensor, anchors: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random gamma, saturation, light and skin tone, the same for source and driving pictures of a person.

    The skin tint applies to pixels about as bright as the cheeks, and so neither to the mouth interior nor to teeth,
    which look alike in all people. Black stays black.
    source: (S, 3, R, R); driving: (S * K, 3, R, R); anchors: (S, 3, 2), left eye, right eye and mouth of the sources.
    """
    count = len(source)
    gamma, saturation = (
        torch.from_numpy(np.exp(rng.uniform(-most, most, (count, 1, 1, 1))).astype(np.float32))
        for most in (GAMMA, SATURATION)
    )
    gain = torch.from_numpy(np.exp(rng.uniform(-LIGHT, LIGHT, (count, 3, 1, 1))).astype(np.float32))
    gain = gain * torch.from_numpy(rng.uniform(0.7, 1.25, (count, 1, 1, 1)).astype(np.float32))
    cheeks = anchors[:, :2] + (anchors[:, 2:] - anchors[:, :2].mean(1, keepdim=True)) / 2
    coarse = F.avg_pool2d(source.mean(1, keepdim=True), source.shape[-1] // 32)
    cheek = (F.grid_sample(coarse, cheeks[:, None], align_corners=False).mean((2, 3), keepdim=True) + 1) / 2
    tint = torch.from_numpy(rng.uniform(-SKIN_TINT, SKIN_TINT, (count, 3, 1, 1)).astype(np.float32))

    def changed(pictures: Tensor) -> Tensor:
        each = len(pictures) // count
        levels = ((pictures + 1) / 2).pow(gamma.repeat_interleave(each, 0))
        grey = levels.mean(1, keepdim=True)
        skin = torch.exp(-(((grey - cheek.pow(gamma).repeat_interleave(each, 0)) / SKIN_RANGE) ** 2))
        tinted = levels + tint.repeat_interleave(each, 0) * skin
        saturated = grey + (tinted - grey) * saturation.repeat_interleave(each, 0)
        return (saturated * gain.repeat_interleave(each, 0)).clamp(0.0, 1.0) * 2 - 1

    return changed(source), changed(driving)


# ------------------------------------------------------------------------------------------------------- framing


@dataclass(frozen=True)
class Crop:
    """Shift (N, 2) right and down in picture widths, and scale (N,), of the contents of N pictures."""

    shift: Tensor
    scale: Tensor

    @staticmethod
    def random(count: int, rng: np.random.Generator, shift: float = 0.03, scale: float = 0.04) -> Crop:
        """Normally distributed. shift: deviation in picture widths; scale: deviation of the logarithm."""
        return Crop(
            torch.from_numpy(rng.normal(0, shift, (count, 2)).astype(np.float32)),
            torch.from_numpy(np.exp(rng.normal(0, scale, count)).astype(np.float32)),
        )

    def pictures(self, planes: Tensor, padding: str = "reflection") -> Tensor:
        """(N, C, H, W) shifted and scaled. padding: as in `torch.nn.functional.grid_sample`."""
        theta = torch.zeros(len(planes), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / self.scale
        theta[:, :, 2] = -2.0 * self.shift / self.scale[:, None]
        grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
        return F.grid_sample(planes, grid, padding_mode=padding, align_corners=False)

    def array(self, picture: np.ndarray, row: int = 0) -> np.ndarray:
        """The crop of picture `row`, for a square uint8 (S, S, 3)."""
        size, scale = len(picture), float(self.scale[row])
        right, down = (size - 1) / 2 * (1 - scale) + size * self.shift[row].numpy()
        matrix = np.array([[scale, 0, right], [0, scale, down]], np.float32)
        return cv2.warpAffine(np.ascontiguousarray(picture), matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)

    def points(self, points: Tensor) -> Tensor:
        """Points (N, P, 2) in [-1, 1] in the cropped pictures."""
        return points * self.scale[:, None, None] + 2.0 * self.shift[:, None]

    def flow(self, flow: Tensor) -> Tensor:
        """Flow (N, 2, H, W) between two pictures that are cropped alike."""
        return self.pictures(flow, "border") * self.scale.view(-1, 1, 1, 1)

    def coefficients(self, coefficients: Tensor) -> Tensor:
        """(N, 36) of the cropped pictures: a face that is shifted in the crop has its head shifted."""
        result = coefficients.clone()
        x, y, scale = PLACE
        result[:, x] = result[:, x] * self.scale + self.shift[:, 0] / SHIFT
        result[:, y] = result[:, y] * self.scale + self.shift[:, 1] / SHIFT
        result[:, scale] = ((1.0 + SCALE * result[:, scale]) * self.scale - 1.0) / SCALE
        return result

    def difference(self, difference: Tensor) -> Tensor:
        """(N, 36) differences of coefficients between two pictures that are cropped alike."""
        result = difference.clone()
        result[:, POSE_COLUMNS.start + 3 : POSE_COLUMNS.stop] *= self.scale[:, None]
        return result


# ---------------------------------------------------------------------------------------------- camera and codec


def blurred(
    pictures: Tensor, rng: np.random.Generator, chance: float = 0.3, scale: tuple[float, float] = (0.4, 0.9)
) -> Tensor:
    """With probability `chance`, all pictures reduced by a factor uniform in `scale` and enlarged again."""
    if rng.random() >= chance:
        return pictures
    small = F.interpolate(pictures, scale_factor=float(rng.uniform(*scale)), mode="bilinear", antialias=True)
    return F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")


def with_noise(pictures: Tensor, deviation: float) -> Tensor:
    """Gaussian noise; the result is not clamped."""
    return pictures + torch.randn_like(pictures) * deviation


def filmed(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, exposure and noise (deviation 0 to 0.06) of single pictures; the result is clamped to [-1, 1]."""
    pictures = Exposure.random(len(pictures), rng).apply(blurred(pictures, rng))
    return with_noise(pictures, float(rng.uniform(0.0, 0.06))).clamp(-1.0, 1.0)


@functools.cache
def _noise_table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 22, np.float32)


def array_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit deviation, cut from a fixed table, because drawing new numbers would be slow."""
    table, count = _noise_table(), int(np.prod(shape))
    first = rng.integers(0, table.size - count)
    return table[first : first + count].reshape(shape)


def downscaled(
    picture: np.ndarray, rng: np.random.Generator, chance: float = 0.3, scale: tuple[float, float] = (0.45, 1.0)
) -> np.ndarray:
    """With probability `chance`, the picture reduced by a factor uniform in `scale` and enlarged again."""
    if rng.random() >= chance:
        return picture
    factor = rng.uniform(*scale)
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def compressed(
    picture: np.ndarray, rng: np.random.Generator, chance: float = 0.4, quality: tuple[float, float] = (50, 95)
) -> np.ndarray:
    """With probability `chance`, JPEG artefacts of a quality uniform in the given range."""
    if rng.random() >= chance:
        return picture
    options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(*quality))]
    return cv2.imdecode(cv2.imencode(".jpg", picture, options)[1], cv2.IMREAD_COLOR)


def photographed(
    source: Tensor, driving: Tensor, rng: np.random.Generator, chance: float = 0.6
) -> tuple[Tensor, Tensor]:
    """Pictures as a camera saves them, with probability `chance` per person: soft, with JPEG artefacts.

    source: (S, 3, H, W); driving: (S * K, 3, H, W), from the same camera: where only the source were worse, a network
    would learn to repaint what it can take from the source.
    """
    result, drivings = (source.clone(), driving.clone()), len(driving) // len(source)
    for person in np.flatnonzero(rng.random(len(source)) < chance):
        scale, quality = float(rng.uniform(0.6, 1.0)), float(rng.uniform(55, 95))
        rows = (result[0][person : person + 1], result[1][person * drivings : (person + 1) * drivings])
        for picture in (picture for part in rows for picture in part):
            levels = ((picture.permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)
            levels = downscaled(levels, rng, chance=1.0, scale=(scale, scale))
            levels = compressed(levels, rng, chance=1.0, quality=(quality, quality))
            picture.copy_(torch.from_numpy(levels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1))
    return result


def recorded_pair(pictures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Crop]:
    """Portrait and frame of one person, uint8 (2, S, S, 3), as one camera records them, and their common crop.

    Crop deviations 0.024 and 0.05, blur of up to 0.8 pixels; per picture brightness 0.94 to 1.06, noise of up to 5 of
    255 levels and, with probability 0.7, JPEG of quality 45 to 95.
    """
    crop, sigma, result = Crop.random(1, rng, shift=0.024, scale=0.05), rng.uniform(0, 0.8), []
    for picture in pictures:
        frame = crop.array(picture)
        if sigma > 0.35:
            frame = cv2.GaussianBlur(frame, (0, 0), sigma)
        frame = frame * rng.uniform(0.94, 1.06) + rng.normal(0, rng.uniform(0, 5), frame.shape)
        result.append(compressed(np.clip(frame, 0, 255).astype(np.uint8), rng, chance=0.7, quality=(45, 95)))
    return np.stack(result), crop


# ------------------------------------------------------------------------------------------------------- make-up


def repaint_eyes(source: Tensor, anchors: Tensor, rng: np.random.Generator) -> Tensor:
    """Dark lashes and eye shadow on half of the sources (S, 3, R, R); rendered heads have none.

    Without them, a network could derive the colour of a closed lid from the surroundings of the open eye, which is
    wrong for people with make-up. anchors: (S, 3, 2), left eye, right eye and mouth in [-1, 1].
    """
    places, result = pixel_positions(source.shape[-1], source.device)[0], []
    for picture, (left, right, _) in zip(source, anchors, strict=True):
        if rng.random() < 0.5:
            result.append(picture)
            continue
        distance = (right - left).norm()
        across = (right - left) / distance
        width, height, up = rng.uniform(0.15, 0.32), rng.uniform(0.06, 0.16), rng.uniform(-0.02, 0.06)
        thickness, dark, shadow = rng.uniform(0.1, 0.5), rng.uniform(0.0, 0.9), rng.uniform(0.0, 0.6)
        above = rng.uniform(-0.5, 0.5)
        cover = torch.zeros_like(places[:1])
        for eye in (left, right):
            offset = places - eye[:, None, None]
            x = (offset[0] * across[0] + offset[1] * across[1]) / distance / width
            y = ((offset[1] * across[0] - offset[0] * across[1]) / distance + up) / height
            radius = torch.hypot(x, y)
            line = dark * torch.exp(-(((radius - 1) / thickness) ** 2)) * torch.sigmoid(4 * (above - y))
            cover = torch.maximum(cover, torch.maximum(line, shadow * torch.exp(-((radius / 1.5) ** 4)))[None])
        paint = torch.from_numpy(rng.uniform(-1.0, -0.4, (3, 1, 1)).astype(np.float32))
        result.append(picture + cover * (torch.minimum(paint, picture) - picture))
    return torch.stack(result)
