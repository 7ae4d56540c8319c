"""Which graphics card this computer has, as its driver tells it: no torch, no bpy, no other module of this package.

Run as a program it prints what it found; `probe` runs it so, for a driver that crashes takes its program along.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
CUDA = (13, 0)  # what the locked torch is built with
_OLDEST = (7, 5)  # the capability of a card below which that CUDA does nothing
OLD_CUDA = (12, 0)  # what the driver has to run for the older torch, built with 12.6: all of 12 run each other's
_OLD_BUILD = ((5, 0), (9, 0))  # the capabilities that it is built for


@dataclass(frozen=True)
class Card:
    """An NVIDIA card.  capability: of its processors, (8, 9).  driver: the newest CUDA that this one runs, (13, 0)."""

    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]


def cards(load: Callable[[str], Any] = ctypes.CDLL) -> list[Card]:
    """What the NVIDIA driver tells of its cards, none if there is no driver; never raises."""
    try:
        return _asked(load(_LIBRARY))
    except (OSError, AttributeError, ValueError):  # no driver, or one too old to have what is asked for
        return []


def _asked(cuda: Any) -> list[Card]:
    def number(function: Callable[..., int], *arguments: int) -> int:
        answer = ctypes.c_int()
        if function(ctypes.byref(answer), *arguments):
            raise OSError(function)
        return answer.value

    if cuda.cuInit(0):
        return []
    version = number(cuda.cuDriverGetVersion)  # 13000 is 13.0
    found = []
    for index in range(number(cuda.cuDeviceGetCount)):
        device = number(cuda.cuDeviceGet, index)
        major, minor = (number(cuda.cuDeviceGetAttribute, attribute, device) for attribute in (_MAJOR, _MINOR))
        name = ctypes.create_string_buffer(256)
        cuda.cuDeviceGetName(name, len(name), device)
        driver = version // 1000, version % 1000 // 10
        found.append(Card(name.value.decode("utf-8", "replace"), (major, minor), driver))
    return found


def probe(python: str = sys.executable, seconds: float = 20.0) -> list[Card]:
    """`cards`, asked by another Python; none where that takes too long, crashes or cannot be started. Never raises."""
    if sys.platform == "darwin" or not Path(python or "").name.startswith("python"):
        return []
    try:
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # only on Windows
        command = [python, "-I", "-X", "utf8", __file__]
        answer = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=True, creationflags=flags
        )
        found = json.loads(answer.stdout)
        return [Card(card["name"], tuple(card["capability"]), tuple(card["driver"])) for card in found]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError):
        return []


def backend(offered: Sequence[str], found: Sequence[Card]) -> tuple[str, str]:
    """The backend to propose of those offered (as `lock.BACKENDS` has them), and why, as one or two sentences."""
    if "mps" in offered:
        return "mps", "This computer's own graphics will draw the faces."
    if not found:
        return "cpu", "No NVIDIA graphics card was found: the processor will draw the faces."
    card = max(found, key=lambda card: card.capability)
    current = "cuda" in offered and card.capability >= _OLDEST
    if current and card.driver >= CUDA:
        return "cuda", f"{card.name} will draw the faces."
    old = "cuda-old" in offered and _OLD_BUILD[0] <= card.capability <= _OLD_BUILD[1]
    needed = OLD_CUDA if old else CUDA
    told = f"The driver of {card.name} is for CUDA {_dotted(card.driver)}"
    if old and card.driver >= OLD_CUDA:
        if current:
            return "cuda-old", f"{told}, for which the older build of torch is taken: {card.name} will draw the faces."
        return "cuda-old", f"{card.name} will draw the faces, with the older build of torch that is for such cards."
    if current or old:
        return "cpu", f"{told}, {_dotted(needed)} is needed: update it. As it is, the processor will draw the faces."
    why = "too old for the usual packages" if "cuda" in offered else "not what the usual packages are for"
    other = 'to use it all the same, choose "Other Graphics Card" in the preferences'
    return "cpu", f"{card.name} is {why}; {other}. As it is, the processor will draw the faces."


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


if __name__ == "__main__":
    print(json.dumps([asdict(card) for card in cards()]))
