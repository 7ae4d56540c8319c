"""Fixtures for material that not every machine has."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from inference.contract import bank

ROOT = Path(__file__).parents[1]

# The repository is one package, as Blender loads it; this gives it the name by which tests without Blender import it,
# so that relative imports between its parts mean the same here.
sys.modules["edtalk"] = ModuleType("edtalk")
sys.modules["edtalk"].__path__ = [str(ROOT)]


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder with a real photograph, a real voice and real driving clips, which are not ours to publish."""
    folder = ROOT.parent / "shared" / "media"
    if not folder.is_dir():
        pytest.skip("needs shared/media beside the checkout: real recordings that are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def starter_bank() -> bank.Bank:
    """The embedded bank with its weights."""
    return bank.load_bank()
