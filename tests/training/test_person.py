"""Tuning a bank to a person: what may change, what is kept, and which banks are refused."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from training.footage.heads import HeadsAsFootage
from training.stages.footage import split_in_time
from training.stages.generator import fresh
from training.stages.person import FAR, NEAR, held_out_error, pairs, tunable, tune
from training.stages.reenactment import footage_config

from .footage_material import write_faces


def test_only_the_decoder_changes_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    footage = HeadsAsFootage(write_faces(tmp_path, 3, 10))
    split, torch_seed = split_in_time(footage), torch.manual_seed(0)
    model = fresh(footage_config(32))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = argparse.Namespace(out=tmp_path / "person.pt", rate=2e-3, minutes=math.inf, steps=3)
    best, errors = tune(args, model, split, np.random.default_rng(0))
    kept = best.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, kept[name])}
    assert changed
    assert all(name.startswith("dec.") for name in changed)
    assert errors["best"] < errors["before"]
    assert held_out_error(best, split.heldout) == pytest.approx(errors["best"], rel=1e-5)
    assert torch_seed is not None


def test_a_step_that_makes_it_worse_is_not_kept(tmp_path: Path) -> None:
    split = split_in_time(HeadsAsFootage(write_faces(tmp_path, 3, 10)))
    torch.manual_seed(0)
    model = fresh(footage_config(32))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = argparse.Namespace(out=tmp_path / "person.pt", rate=1e3, minutes=math.inf, steps=2)
    best, errors = tune(args, model, split, np.random.default_rng(0))
    assert errors["best"] == errors["before"]
    assert all(torch.equal(tensor, start[name]) for name, tensor in best.state_dict().items())


def test_half_of_the_pairs_are_near_and_half_far(tmp_path: Path) -> None:
    footage = HeadsAsFootage(write_faces(tmp_path, 2, 12))
    source, driven = pairs(footage, np.random.default_rng(0), 40)
    gap = np.abs(footage.seconds[source] - footage.seconds[driven])
    assert (gap[::2] < NEAR).all()
    assert (gap[1::2] > FAR).all()


def test_a_bank_whose_networks_depend_on_its_generator_is_refused() -> None:
    with pytest.raises(EDTalkError, match="cannot be tuned"):
        tunable(load_bank())
