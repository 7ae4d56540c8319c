"""Tuning a bank to a person: what may change, what is kept, and which banks are refused."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank, load_bank, numbered_coefficients, save_bank
from inference.contract.errors import EDTalkError
from training.footage.heads import HeadsAsFootage
from training.footage.takes import split_in_time
from training.learning.watch import STOP, Watch, read_status
from training.stages import person
from training.stages.footage_generator import footage_config
from training.stages.generator import fresh
from training.stages.person import FAR, NEAR, held_out_error, pairs, tunable, tune

from .footage_material import prepare_faces, write_faces


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
    source, driving = pairs(footage, np.random.default_rng(0), 40)
    gap = np.abs(footage.seconds[source] - footage.seconds[driving])
    assert (gap[::2] < NEAR).all()
    assert (gap[1::2] > FAR).all()


def test_a_bank_whose_networks_depend_on_its_generator_is_refused() -> None:
    with pytest.raises(EDTalkError, match="cannot be tuned"):
        tunable(load_bank())


def test_a_stopped_tuning_leaves_a_bank_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "LEAST_SECONDS", 5.0)
    clips, torch_seed = prepare_faces(tmp_path), torch.manual_seed(0)
    model, out = fresh(footage_config(32)), tmp_path / "tuned.safetensors"
    bank = Bank("mine", model.config, numbered_coefficients(model.config.banks), networks={})
    save_bank(bank, {name: part.numpy() for name, part in model.state_dict().items()}, tmp_path / "mine.safetensors")
    parser = argparse.ArgumentParser()
    person.add_options(parser)
    words = f"--bank {tmp_path / 'mine.safetensors'} --out {out} --work {tmp_path / 'work'} --minutes inf --steps 9"
    args = parser.parse_args([*map(str, clips), *words.split()])
    with pytest.raises(EDTalkError, match="without consent"):
        person.run(args)
    args.consent = True

    class Watched(Watch):
        def at(self, phase: str, share: float, step: int = 0, doing: str = "") -> None:
            super().at(phase, share, step, doing)
            if step == 1:
                (self.folder / STOP).touch()

    with Watched(tmp_path / "work", "person", {"prepare": None, "person": None, "finish": None}, out) as watch:
        person.tune_bank(args, tmp_path / "work", watch)
    state, tuned = read_status(tmp_path / "work"), load_bank(out)
    assert (state["state"], state["bank"]) == ("stopped", str(out.resolve()))
    assert state["psnr"] > 0.0
    assert tuned.footage is not None
    assert [clip["name"] for clip in tuned.footage["clips"]] == ["anna.mp4", "bert.mp4"]
    assert tuned.names == bank.names
    changed = {name for name, part in model.state_dict().items() if not np.array_equal(part, tuned.tensors[name])}
    assert all(name.startswith("dec.") for name in changed)
    assert torch_seed is not None
