"""Fixtures for all tests."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inference.contract import bank

ROOT = Path(__file__).parents[1]
os.environ["EDTALK_CACHE"] = ""  # nothing is stored in the user's folders

# Blender loads the repository as one package. Tests without Blender import it as `edtalk`, so that relative imports
# between its parts work here too.
sys.modules["edtalk"] = ModuleType("edtalk")
sys.modules["edtalk"].__path__ = [str(ROOT)]


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder with a photograph, a recorded voice and driving clips, which may not be published; skips without it."""
    folder = ROOT.parent / "shared" / "media"
    if not folder.is_dir():
        pytest.skip("needs shared/media beside the checkout: recordings that are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def starter_bank() -> bank.Bank:
    """The embedded bank with its weights."""
    return bank.load_bank()
