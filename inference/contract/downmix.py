"""Mix the channels of a sound to mono so that no voice is lost."""

from __future__ import annotations

import numpy as np

_CANCELLED = 0.1  # power of the average, relative to that of unrelated channels, from which on channels cancel

_AS_LOUD = 0.8  # power relative to the loudest channel's, 1 dB; a lossy codec changes equal channels by less


class Downmix:
    """Averages channels block by block, and measures whether they cancel each other in the average.

    They do where one channel is the other one inverted, as from a balanced line in a stereo socket: both ears hear the
    voice, the average is silent. Then one channel is to be used instead.
    """

    def __init__(self) -> None:
        self._products: dict[int, np.ndarray] = {}  # by number of channels: of each channel with each other, summed

    def average(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float32 from float32 samples (n, channels). The number of channels may differ from block to block."""
        channels = samples.shape[1]
        if channels == 1:
            return samples[:, 0]
        if channels not in self._products:
            self._products[channels] = np.zeros((channels, channels))
        self._products[channels] += samples.T @ samples
        return samples @ np.full(channels, 1 / channels, np.float32)

    @property
    def cancels(self) -> bool:
        """Whether the channels cancel each other in the blocks so far."""
        average = sum(products.sum() / len(products) ** 2 for products in self._products.values())
        unrelated = sum(products.trace() / len(products) ** 2 for products in self._products.values())
        return bool(average < _CANCELLED * unrelated)

    def loudest(self, samples: np.ndarray) -> np.ndarray:
        """(n,) the channel of samples (n, channels) that was the loudest in the blocks so far; the first if equal."""
        products = self._products.get(samples.shape[1])
        if products is None:
            return samples[:, 0]
        power = products.diagonal()
        return samples[:, int(np.argmax(power >= _AS_LOUD * power.max()))]


def to_mono(samples: np.ndarray) -> np.ndarray:
    """(n,) float32 from samples (n, channels): their average, or the loudest channel where the channels cancel."""
    downmix = Downmix()
    mono = downmix.average(np.asarray(samples, np.float32))
    return downmix.loudest(samples) if downmix.cancels else mono
