"""Fixtures for tests of the engine."""

from __future__ import annotations

import pytest

from tests.cli_material import Material, build


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Material:
    """Banks and media for the command line, written once."""
    return build(tmp_path_factory.mktemp("material"))
