"""Estimates coefficient differences between a frame and a neutral frame of the same person.

In a single picture, the shape of a face cannot be distinguished from its expression. Two pictures of the same person
show the change of expression alone. Three windows are compared, each by dense optical flow:

- the whole face: a linear map of its flow gives the first estimate, which mainly serves the head's pose;
- mouth and eyes, at twice the bank's resolution: a network refines the estimate. Its windows follow the head, so that
  differences between them are due to the expression. The flow is one of its inputs, because it is accurate to
  fractions of a pixel, which the network would need long training to reach.

The network is less accurate on real faces than on rendered ones: its readings of brows and lids are too small. A linear
map of its reading and of the flow in the window of the eyes corrects that, see `WindowReader.calibration`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..insets import windows_at
from .absolute import LEAK, strided_convolutions

# Where a bank keeps the parts of the network. Older banks also hold `relative.stages.` and `relative.share`, which are
# no longer read.
PREFIXES = {"relative.linear.": "face.", "close.": "windows."}
GRID = 16  # cells of a side of the face's flow that the linear map reads
WINDOWS = ("mouth", "eyes")
SIZES = (80, 80), (48, 112)  # height and width of these windows in pixels
EXTENTS = (0.75, 0.85, 0.22), (1.12, 0.485, -0.06)  # in eye distances, see `inference.model.insets.window_at`
WINDOW_CHANNELS = 11  # of a compared window: rest 3, difference 3, difference after following the flow 3, flow 2
CELL = 8  # pixels of a side of the cells over which a window's flow is averaged
FLOW_UNIT = 8.0  # pixels of flow per unit of a network's input
EYE_CELLS = SIZES[1][0] // CELL, SIZES[1][1] // CELL // 2  # rows and columns of cells in half of the eyes' window
EYE_FLOWS = 2 * EYE_CELLS[0] * EYE_CELLS[1]  # numbers that `WindowReader.features` adds to the coefficients


@dataclass(frozen=True)
class RelativeReaderConfig:
    """channels: width of each convolution; narrow, hidden: widths of the affine layers.

    calibrated: 1 if the reader has a `WindowReader.calibration`, else 0.
    """

    channels: tuple[int, ...]
    narrow: int
    hidden: int
    coefficients: int
    calibrated: int = field(default=0, metadata={"optional": True})


class WindowEncoder(nn.Module):
    """A compared window (N, WINDOW_CHANNELS, h, w) -> features (N, F)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = strided_convolutions(WINDOW_CHANNELS, channels)

    def forward(self, window: Tensor) -> Tensor:
        flow = F.avg_pool2d(window[:, -2:], CELL)
        for conv in self.convs:
            window = F.leaky_relu(conv(window), LEAK)
        return torch.cat([window.flatten(1), flow.flatten(1)], 1)


class WindowReader(nn.Module):
    """Compared windows of mouth and eyes -> coefficient differences (N, n).

    share: (2, n), blend weights of this network and of the estimate that it refines; 0 and 1 for the pose. mirror:
    (n,), index of the coefficient that takes each one's place in a mirrored picture; mirror_sign: (n,), its sign there.
    calibration: a linear map of `features` to the final estimate; None if the blend is final.
    """

    def __init__(self, config: RelativeReaderConfig) -> None:
        super().__init__()
        self.config, count = config, config.coefficients
        self.looks = nn.ModuleList(WindowEncoder(config.channels) for _ in WINDOWS)
        features = sum(_feature_count(height, width, config.channels) for height, width in SIZES)
        self.narrow = nn.Linear(features, config.narrow, bias=False)
        self.hidden = nn.Linear(config.narrow, config.hidden)
        self.last = nn.Linear(config.hidden, count)
        self.register_buffer("share", torch.tensor([[1.0] * count, [0.0] * count]))
        self.register_buffer("mirror", torch.tensor(range(count), dtype=torch.int32))
        self.register_buffer("mirror_sign", torch.ones(count))
        self.calibration = nn.Linear(count + EYE_FLOWS, count, bias=False) if config.calibrated else None

    def forward(self, windows: Sequence[Tensor]) -> Tensor:
        """windows: (N, WINDOW_CHANNELS, h, w) for each of WINDOWS."""
        features = [look(window) for look, window in zip(self.looks, windows, strict=True)]
        return self.last(F.leaky_relu(self.hidden(self.narrow(torch.cat(features, 1))), LEAK))

    def refine(self, windows: Sequence[Tensor], estimate: Tensor) -> Tensor:
        """Refine an estimate (N, n) with the compared windows. Returns the new estimate (N, n)."""
        features = self.features(windows, estimate)
        return features[:, : self.config.coefficients] if self.calibration is None else self.calibration(features)

    def features(self, windows: Sequence[Tensor], estimate: Tensor) -> Tensor:
        """(N, n + EYE_FLOWS): blend of the network's reading and the estimate, and flow in the window of the eyes.

        The windows are also read mirrored. Both readings are averaged, because their errors differ. So is the flow,
        because brows and lids move alike on both sides; it is the mean in cells of the left half, in FLOW_UNIT.
        """
        own, previous = self.share
        mirrored = [window.flip(-1) for window in windows]
        for window in mirrored:
            window[:, -2].neg_()  # horizontal flow
        from_mirror = self(mirrored)[:, self.mirror] * self.mirror_sign
        blend = own * (self(windows) + from_mirror) / 2 + previous * estimate
        flow = (F.avg_pool2d(windows[1][:, -2:], CELL) + F.avg_pool2d(mirrored[1][:, -2:], CELL)) / 2
        return torch.cat([blend, flow[..., : EYE_CELLS[1]].flatten(1)], 1)


class RelativeReader(nn.Module):
    """Flow of the face and compared windows of mouth and eyes -> coefficient differences from the neutral frame."""

    def __init__(self, config: RelativeReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.face = nn.Linear(2 * GRID**2, config.coefficients)
        self.windows = WindowReader(config)

    def estimate(self, flow: Tensor) -> Tensor:
        """flow (N, 2, S / 2, S / 2) of the face, see `RestFlow.to` -> first estimate (N, n)."""
        return self.face(F.adaptive_avg_pool2d(flow, GRID).flatten(1))

    def refine(self, windows: Sequence[Tensor], estimate: Tensor) -> Tensor:
        """See `WindowReader.refine`."""
        return self.windows.refine(windows, estimate)


class RestFlow:
    """Optical flow of the whole face from a neutral picture, float32 (3, S, S) in [-1, 1], to other pictures."""

    def __init__(self, rest: np.ndarray) -> None:
        self._rest = grey(rest)
        self._search = _FlowSearch(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def to(self, picture: np.ndarray) -> np.ndarray:
        """float32 (2, S / 2, S / 2): displacement to the right and down, in half picture sides."""
        flow, size = self._search.calc(self._rest, grey(picture)), len(self._rest)
        cells = flow.reshape(size // 2, 2, size // 2, 2, 2).mean((1, 3))
        return np.ascontiguousarray(cells.transpose(2, 0, 1)) * np.float32(2 / size)


class RestWindow:
    """One window of a neutral face, float32 (h, w, 3) in [-1, 1], to compare other frames with."""

    def __init__(self, window: np.ndarray) -> None:
        self._window, self._grey = window, grey(window.transpose(2, 0, 1))
        height, width = window.shape[:2]
        self._pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        self._search = _FlowSearch(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def compare(self, window: np.ndarray) -> np.ndarray:
        """The same window of a frame, (h, w, 3) -> float32 (h, w, WINDOW_CHANNELS)."""
        flow = self._search.calc(self._grey, grey(window.transpose(2, 0, 1)))
        followed = cv2.remap(window, self._pixels + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        rest = self._window
        return np.concatenate([rest, window - rest, followed - rest, flow / np.float32(FLOW_UNIT)], 2)


def cut_windows(pictures: Sequence[np.ndarray], anchors: Tensor) -> list[list[np.ndarray]]:
    """Cut the windows of mouth and eyes out of pictures.

    pictures: N arrays (R, R, 3); anchors: (N, 3, 2), see `windows_at`. Returns for each of WINDOWS a list of N windows
    (h, w, 3) of the pictures' type.
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result = []
    for window, (height, width) in zip(windows_at(anchors.cpu(), EXTENTS), SIZES, strict=True):
        cut = []
        for picture, to_picture in zip(pictures, window.matrices(height, width), strict=True):
            to_pixels = to_picture * (len(picture) / 2)
            to_pixels[:, 2] += (len(picture) - 1) / 2
            cut.append(cv2.warpAffine(picture, to_pixels, (width, height), None, flags, cv2.BORDER_REPLICATE))
        result.append(cut)
    return result


def grey(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (H, W), the input of the flow search."""
    levels = np.rint((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(levels.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)


class _FlowSearch(threading.local):
    """OpenCV's search for optical flow. Each thread has its own, because it keeps its pictures."""

    def __init__(self, preset: int) -> None:
        self._search = cv2.DISOpticalFlow_create(preset)
        self._search.setFinestScale(0)

    def calc(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Grey pictures uint8 (h, w) -> float32 (h, w, 2), the displacement of each pixel of the first."""
        return self._search.calc(before, after, None)


def _feature_count(height: int, width: int, channels: tuple[int, ...]) -> int:
    cells = 2 * (height // CELL) * (width // CELL)
    for _ in channels:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height * width * channels[-1] + cells
