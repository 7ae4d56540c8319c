"""Fixtures for tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli_material import Material, build
from tests.inference.test_worker import COMMAND, Client


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Material:
    """Banks and media for the command line, written once."""
    return build(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Client]:
    """A worker that has said hello, for all tests of a file."""
    client = Client(COMMAND)
    client.next()
    yield client
    client.end()
