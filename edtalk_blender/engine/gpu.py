"""Detects NVIDIA graphics cards through their driver. No torch, no bpy, no other module of this package.

Run as a program it prints what it found. `probe` runs it in a process of its own, because a driver may crash.
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
CUDA = (13, 0)  # the version that the locked torch is built with
_OLDEST = (7, 5)  # the least compute capability that this build supports
OLD_CUDA = (12, 0)  # required of the driver for the older torch, built with 12.6; versions 12.x are compatible
_OLD_BUILD = ((5, 0), (9, 0))  # its least and greatest compute capability


@dataclass(frozen=True)
class Card:
    """An NVIDIA card. capability: compute capability, such as (8, 9). driver: newest CUDA version of the driver."""

    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]


def cards(load: Callable[[str], Any] = ctypes.CDLL) -> list[Card]:
    """The cards that the NVIDIA driver reports; empty if there is no driver. Never raises."""
    try:
        return _query(load(_LIBRARY))
    except (OSError, AttributeError, ValueError):  # no driver, or one that is too old
        return []


def _query(cuda: Any) -> list[Card]:
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
    """`cards` in a process of its own; empty if that fails or takes more than `seconds`. Never raises."""
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
    """The backend to propose among those offered (see `lock.BACKENDS`), and the reason for the user."""
    if "mps" in offered:
        return "mps", "The graphics processor of this Mac will render the faces."
    if not found:
        return "cpu", "No NVIDIA graphics card was found: the CPU will render the faces."
    card = max(found, key=lambda card: card.capability)
    current = "cuda" in offered and card.capability >= _OLDEST
    if current and card.driver >= CUDA:
        return "cuda", f"{card.name} will render the faces."
    old = "cuda-old" in offered and _OLD_BUILD[0] <= card.capability <= _OLD_BUILD[1]
    needed = OLD_CUDA if old else CUDA
    driver = f"The driver of {card.name} supports CUDA {_dotted(card.driver)}"
    if old and card.driver >= OLD_CUDA:
        if current:
            return "cuda-old", f"{driver}: {card.name} will render the faces, with an older build of torch."
        return "cuda-old", f"{card.name} will render the faces, with an older build of torch."
    if current or old:
        return (
            "cpu",
            f"{driver}, but {_dotted(needed)} is needed: update the driver. Until then the CPU will render the faces.",
        )
    why = "is too old for" if "cuda" in offered else "is not supported by"
    other = 'To use it, choose "Other GPU" in the preferences.'
    return "cpu", f"{card.name} {why} the default packages: the CPU will render the faces. {other}"


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


if __name__ == "__main__":
    print(json.dumps([asdict(card) for card in cards()]))
