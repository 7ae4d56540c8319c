"""Augmentation of training pictures."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads.data import Batch
from ..units import NAMES, POSE_COLUMNS, SCALE, SHIFT


@functools.cache
def some_noise() -> np.ndarray:
    """To cut pieces from: drawing ever new numbers takes longer than all else that is done to a window."""
    return np.random.default_rng(0).standard_normal(1 << 22, np.float32)


class Light(NamedTuple):
    """Of a portrait and a frame: colours' gain (3,) and offset, how much brighter the frame is, and noise."""

    gain: np.ndarray = np.ones(3, np.float32)
    offset: float = 0.0
    brighter: float = 1.0
    noise: float = 0.0

    @staticmethod
    def drawn(rng: np.random.Generator) -> Light:
        gain = rng.uniform(0.6, 1.3, 3).astype(np.float32)
        brighter = np.exp(rng.normal(0, 0.04))
        return Light(0.5 * gain + 0.5 * gain.mean(), rng.uniform(-0.3, 0.3), brighter, rng.uniform(0, 0.04))

    def on(self, picture: np.ndarray, rng: np.random.Generator, later: int) -> np.ndarray:
        """uint8 (h, w, 3) -> float32, nominally in [-1, 1]. later: 1 for the frame, 0 for the portrait."""
        scale = self.gain * np.float32(self.brighter**later)
        lit = picture * (scale / np.float32(127.5)) + (np.float32(self.offset) - scale)
        if self.noise:
            first = rng.integers(0, some_noise().size - lit.size)
            lit += some_noise()[first : first + lit.size].reshape(lit.shape) * np.float32(self.noise)
        return lit


def as_coded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (h, w, 3) as a film may show it: sometimes smaller, sometimes coded."""
    if rng.random() < 0.3:
        share = rng.uniform(0.45, 1.0)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(50, 95))]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
    return picture


COMPLEXION = 0.16  # of a level of 1, by how much skin's colours may differ from a rendered head's
ALIKE = 0.16  # of a level: what differs as much from the cheeks' is hardly skin
LIGHT = 0.12  # by what share a light's may: photographs are balanced


def in_other_light(batch: Batch, anchors: Tensor, rng: np.random.Generator) -> Batch:
    """Sources and what drives them with the same light, gamma, saturation and complexion: photographs have all kinds.

    A complexion tints what is about as bright as the cheeks, but not the inside of a mouth, nor teeth: these are much
    the same in everybody. Light leaves black as it is. Otherwise mouths in pale skin would be taken for violet.
    anchors: (S, 3, 2).
    """
    count = len(batch.source)
    gamma, saturation = (
        torch.from_numpy(np.exp(rng.uniform(-most, most, (count, 1, 1, 1))).astype(np.float32)) for most in (0.45, 0.4)
    )
    gain = torch.from_numpy(np.exp(rng.uniform(-LIGHT, LIGHT, (count, 3, 1, 1))).astype(np.float32))
    bright = torch.from_numpy(rng.uniform(0.7, 1.25, (count, 1, 1, 1)).astype(np.float32))
    cheeks = anchors[:, :2] + (anchors[:, 2:] - anchors[:, :2].mean(1, keepdim=True)) / 2
    coarse = F.avg_pool2d(batch.source.mean(1, keepdim=True), batch.source.shape[-1] // 32)
    cheek = (F.grid_sample(coarse, cheeks[:, None], align_corners=False).mean((2, 3), keepdim=True) + 1) / 2
    tint = torch.from_numpy(rng.uniform(-COMPLEXION, COMPLEXION, (count, 3, 1, 1)).astype(np.float32))

    def lit(pictures: Tensor) -> Tensor:
        each = len(pictures) // count
        levels = ((pictures + 1) / 2).pow(gamma.repeat_interleave(each, 0))
        grey = levels.mean(1, keepdim=True)
        skin = torch.exp(-(((grey - cheek.pow(gamma).repeat_interleave(each, 0)) / ALIKE) ** 2))
        tinted = levels + tint.repeat_interleave(each, 0) * skin
        saturated = grey + (tinted - grey) * saturation.repeat_interleave(each, 0)
        return (saturated * (bright * gain).repeat_interleave(each, 0)).clamp(0.0, 1.0) * 2 - 1

    return replace(batch, source=lit(batch.source), driving=lit(batch.driving))


PLACE = [NAMES.index(f"head{what}") for what in ("ShiftX", "ShiftY", "Scale")]


def cropped(
    pictures: Tensor, coefficients: Tensor, points: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as croppers leave them, moved and scaled, what they then show, and where points (N, P, 2) then are.

    A face that is cut out a little to the left is one whose head is shifted to the right.
    """
    count = len(pictures)
    move = torch.from_numpy(rng.normal(0, 0.03, (count, 2)).astype(np.float32))  # picture widths, right and down
    growth = torch.from_numpy(np.exp(rng.normal(0, 0.04, count)).astype(np.float32))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / growth
    theta[:, :, 2] = -2.0 * move / growth[:, None]
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    shown = coefficients.clone()
    x, y, scale = PLACE
    shown[:, x] = shown[:, x] * growth + move[:, 0] / SHIFT
    shown[:, y] = shown[:, y] * growth + move[:, 1] / SHIFT
    shown[:, scale] = ((1.0 + SCALE * shown[:, scale]) * growth - 1.0) / SCALE
    return pictures, shown, points * growth[:, None, None] + 2.0 * move[:, None]


def filmed(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures as cameras make them: blurred, tinted, noisy."""
    count, size = len(pictures), pictures.shape[-1]
    if rng.random() < 0.3:
        small = F.interpolate(pictures, scale_factor=float(rng.uniform(0.4, 0.9)), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=(size, size), mode="bilinear")
    gain = torch.from_numpy(rng.uniform(0.6, 1.3, (count, 3, 1, 1)).astype(np.float32).clip(0.5))
    gain = 0.5 * gain + 0.5 * gain.mean(1, keepdim=True)
    offset = torch.from_numpy(rng.uniform(-0.3, 0.3, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.randn_like(pictures) * float(rng.uniform(0.0, 0.06))
    return (pictures * gain + offset + noise).clamp(-1.0, 1.0)


def scaled(difference: Tensor, growth: Tensor) -> Tensor:
    """What is true of two pictures, once both are enlarged alike: the head is shifted, and grows, by more."""
    result = difference.clone()
    result[:, POSE_COLUMNS.start + 3 : POSE_COLUMNS.stop] *= growth
    return result


def as_filmed(pictures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """uint8 (2, S, S, 3) as a camera and a coder leave them, both moved and enlarged alike, and by how much."""
    size = pictures.shape[1]
    growth, middle = float(np.exp(rng.normal(0, 0.05))), (size - 1) / 2
    right, down = middle * (1 - growth) + rng.normal(0, 3, 2)
    place = np.array([[growth, 0, right], [0, growth, down]], np.float32)
    blur, quality, filmed = rng.uniform(0, 0.8), int(rng.uniform(45, 95)), []
    for picture in pictures:
        shown = cv2.warpAffine(np.ascontiguousarray(picture), place, (size, size), borderMode=cv2.BORDER_REPLICATE)
        if blur > 0.35:
            shown = cv2.GaussianBlur(shown, (0, 0), blur)
        shown = shown * rng.uniform(0.94, 1.06) + rng.normal(0, rng.uniform(0, 5), shown.shape)
        shown = np.clip(shown, 0, 255).astype(np.uint8)
        if rng.random() < 0.7:
            shown = cv2.imdecode(cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        filmed.append(shown)
    return np.stack(filmed), growth
