"""Detecting graphics cards with working, missing, old and crashing drivers, and the backend that is proposed."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest
from edtalk.edtalk_blender.engine import gpu
from edtalk.edtalk_blender.engine.gpu import Card


def driver(*cards: tuple[str, int, int], version: int = 13000, fails: str = "") -> SimpleNamespace:
    """A stand-in for NVIDIA's library. cards: (name, major, minor). fails: the function that returns an error."""

    def answer(name, pointer, value):
        pointer._obj.value = value
        return int(name == fails)

    def attribute(pointer, which, device):
        return answer("cuDeviceGetAttribute", pointer, cards[device - 100][{75: 1, 76: 2}[which]])

    def name(buffer, size, device):
        assert size == len(buffer)
        buffer.value = cards[device - 100][0].encode()
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: int(fails == "cuInit"),
        cuDriverGetVersion=lambda pointer: answer("cuDriverGetVersion", pointer, version),
        cuDeviceGetCount=lambda pointer: answer("cuDeviceGetCount", pointer, len(cards)),
        cuDeviceGet=lambda pointer, index: answer("cuDeviceGet", pointer, 100 + index),
        cuDeviceGetAttribute=attribute,
        cuDeviceGetName=name,
    )


def test_cards_are_read_with_capability_and_driver():
    library = driver(("NVIDIA GeForce RTX 4090", 8, 9), ("NVIDIA GeForce GTX 1080 é", 6, 1), version=12040)
    assert gpu.cards(lambda name: library) == [
        Card("NVIDIA GeForce RTX 4090", (8, 9), (12, 4)),
        Card("NVIDIA GeForce GTX 1080 é", (6, 1), (12, 4)),
    ]


@pytest.mark.parametrize(
    "function", ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute"]
)
def test_a_driver_that_fails_has_no_cards(function):
    assert gpu.cards(lambda name: driver(("card", 8, 9), fails=function)) == []


def test_without_a_driver_there_are_no_cards():
    def missing(name):
        raise OSError(name)

    assert gpu.cards(missing) == []
    assert gpu.cards(lambda name: SimpleNamespace()) == []
    assert gpu.cards(lambda name: ctypes.CDLL(None) if os.name == "posix" else ctypes.windll.kernel32) == []


@pytest.mark.skipif(os.name == "nt", reason="stands in for Python with a script")
@pytest.mark.skipif(sys.platform == "darwin", reason="not probed on macOS")
@pytest.mark.parametrize(
    ("does", "found"),
    [
        ('echo \'[{"name": "A", "capability": [9, 0], "driver": [13, 1]}]\'', [Card("A", (9, 0), (13, 1))]),
        ("kill -SEGV $$", []),
        ("echo nonsense", []),
        ("echo '[1]'", []),
        ("echo '[{}]'", []),
        ("exec sleep 600", []),
    ],
)
def test_probe_returns_whatever_its_process_does(tmp_path, does, found):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    assert gpu.probe(str(python), seconds=0.3 if "sleep" in does else 300) == found


def test_blender_itself_is_not_started_as_python(tmp_path):
    program = tmp_path / "blender"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    assert gpu.probe(str(program)) == gpu.probe("") == gpu.probe(str(tmp_path / "python")) == []
    assert not (tmp_path / "started").exists()


def test_the_real_probe_answers():
    """The result depends on this machine."""
    assert all(isinstance(card, Card) and card.name for card in gpu.probe())


LINUX, WINDOWS = ["cpu", "cuda", "other"], ["cpu", "other"]
BOTH = ["cpu", "cuda", "cuda-old", "other"]
GOOD, OLD = Card("RTX 4090", (8, 9), (13, 0)), Card("GTX 1080", (6, 1), (13, 0))


@pytest.mark.parametrize(
    ("offered", "cards", "backend", "words"),
    [
        (["mps"], [], "mps", "graphics processor"),
        (LINUX, [], "cpu", "No NVIDIA"),
        (LINUX, [GOOD], "cuda", "RTX 4090 will render"),
        (LINUX, [OLD, GOOD], "cuda", "RTX 4090 will render"),
        (LINUX, [OLD], "cpu", "GTX 1080 is too old"),
        (
            LINUX,
            [Card("RTX 2070", (7, 5), (12, 9))],
            "cpu",
            "supports CUDA 12.9, but 13.0 is needed: update the driver",
        ),
        (BOTH, [GOOD, OLD], "cuda", "RTX 4090 will render"),
        (BOTH, [OLD], "cuda-old", "GTX 1080 will render the faces, with an older build of torch"),
        (BOTH, [Card("GTX 750 Ti", (5, 0), (12, 0))], "cuda-old", "GTX 750 Ti will render"),
        (BOTH, [Card("RTX 2070", (7, 5), (12, 9))], "cuda-old", "supports CUDA 12.9: RTX 2070 will render"),
        (BOTH, [Card("H100", (9, 0), (12, 4))], "cuda-old", "H100 will render"),
        (
            BOTH,
            [Card("RTX 5090", (12, 0), (12, 9))],
            "cpu",
            "supports CUDA 12.9, but 13.0 is needed: update the driver",
        ),
        (BOTH, [Card("GTX 1080", (6, 1), (11, 4))], "cpu", "supports CUDA 11.4, but 12.0 is needed: update the driver"),
        (BOTH, [Card("RTX 2070", (7, 5), (11, 4))], "cpu", "supports CUDA 11.4, but 12.0 is needed: update the driver"),
        (BOTH, [Card("GTX 680", (3, 0), (11, 4))], "cpu", "GTX 680 is too old"),
        (WINDOWS, [GOOD], "cpu", "Other GPU"),
        (WINDOWS, [], "cpu", "No NVIDIA"),
    ],
)
def test_the_proposed_backend_is_available_and_explained(offered, cards, backend, words):
    proposed, why = gpu.backend(offered, cards)
    assert proposed == backend
    assert proposed in offered
    assert words in why
    assert why.endswith(".")
