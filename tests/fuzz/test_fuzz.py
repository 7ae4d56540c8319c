"""Damaged and forged input is refused by each parser with its own error. `python -m tests.fuzz` tries far more."""

from __future__ import annotations

import warnings
from contextlib import suppress

import pytest
from edtalk.inference.contract.errors import EDTalkError

from tests.fuzz.parsers import PARSERS

SEED, INPUTS = 16, 300


@pytest.mark.parametrize("name", PARSERS)
def test_valid_input_is_read(name, tmp_path):
    """Otherwise the changed inputs would all fail at the same place."""
    for content in PARSERS[name].seeds:
        PARSERS[name].parse(content, tmp_path)


@pytest.mark.parametrize("name", PARSERS)
def test_changed_input_raises_only_the_errors_of_the_program(name, tmp_path):
    for content in PARSERS[name].inputs(SEED, INPUTS):
        with warnings.catch_warnings(), suppress(EDTalkError):
            warnings.simplefilter("ignore")
            PARSERS[name].parse(content, tmp_path)
