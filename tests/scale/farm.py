"""Simulates a farm that renders many shots, with measured costs."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Seconds on one machine: start of a render, a frame, start of an encoding, a frame of it."""

    start: float
    frame: float
    encode_start: float = 0.0
    encode_frame: float = 0.0

    def render(self, frames: int) -> float:
        return self.start + frames * self.frame

    def encode(self, frames: int) -> float:
        return self.encode_start + frames * self.encode_frame


def shot_lengths(count: int, seed: int = 0) -> list[int]:
    """Frames of shots: 25 to 3,000, half of them longer than about 250, as the cuts of a film vary."""
    random = np.random.default_rng(seed)
    return [int(one) for one in np.clip(random.lognormal(np.log(250), 0.7, count), 25, 3000)]


def makespan(shots: Sequence[int], machines: int, chunk: int, cost: Cost) -> float:
    """Seconds until all shots are rendered and encoded, if free machines take the next task in the order of the shots.

    shots: frames of each. chunk: frames of one task at most. A shot is encoded after its last frame.
    """
    waiting: deque[tuple[int, float, bool]] = deque()  # shot, seconds, whether it is the encoding
    left = []
    for number, frames in enumerate(shots):
        sizes = [min(chunk, frames - begin) for begin in range(0, frames, chunk)]
        left.append(len(sizes))
        waiting.extend((number, cost.render(size), False) for size in sizes)
    running: list[tuple[float, int, bool]] = []
    now = 0.0
    while waiting or running:
        while waiting and len(running) < machines:
            number, seconds, encodes = waiting.popleft()
            heapq.heappush(running, (now + seconds, number, encodes))
        now, number, encodes = heapq.heappop(running)
        if not encodes:
            left[number] -= 1
            if not left[number]:
                waiting.appendleft((number, cost.encode(shots[number]), True))
    return now


def total(shots: Sequence[int], chunk: int, cost: Cost) -> float:
    """Seconds of work, of one machine."""
    starts = sum(-(-frames // chunk) for frames in shots)
    return starts * cost.start + sum(frames * cost.frame + cost.encode(frames) for frames in shots)
