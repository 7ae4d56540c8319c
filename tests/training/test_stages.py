"""The contract of all training stages: bounded by steps, reproducible, resumable, and exported to a bank."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import load_bank
from inference.renderer import FaceRenderer
from training import export
from training.learning import trainer
from training.stages import audio2lip
from training.units import NAMES, POSE_COLUMNS

from .conftest import write_discs
from .stages import FITS, OPTIONS, PHASES, STEPS, Stages, make_small


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        folder = tmp_path_factory.mktemp("stages")
        yield Stages(folder, write_discs(tmp_path_factory.mktemp("few"), 8))


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def distance(one: dict, other: dict) -> float:
    """Root mean square difference of all floating-point weights of two checkpoints, model and average."""
    squares = [
        (one[part][name].double() - tensor.double()).square().flatten()
        for part in ("model", "average")
        for name, tensor in other[part].items()
        if tensor.is_floating_point()
    ]
    return torch.cat(squares).mean().sqrt().item()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stage_ends_after_its_steps_and_evaluates(stages: Stages, name: str) -> None:
    out = stages.trained(name)
    saved = load(out)
    assert [phase["step"] for phase in saved["phases"].values()] == [STEPS] * (1 + len(PHASES.get(name, ())))
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == STEPS
    assert len(lines[-1]) > 3, "the last line has figures"
    assert np.isfinite(list(saved["running"].values())).all()
    assert all(part.isfinite().all() for part in saved["average"].values())


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_training_equals_an_uninterrupted_one(
    stages: Stages, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding; other random numbers would make a difference as large as the training's own."""
    whole, out, note = load(stages.trained(name)), tmp_path / "resumed.pt", trainer.Trainer.note
    calls, stopped = 0, []

    def interrupted(self: trainer.Trainer, values: dict) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:  # after two steps
            raise KeyboardInterrupt
        note(self, values)

    monkeypatch.setattr(trainer, "SAVE_EVERY", -1.0)  # after every step
    monkeypatch.setattr(trainer.Trainer, "note", interrupted)
    while True:
        try:
            stages.run(name, out)
            break
        except KeyboardInterrupt:
            stopped.append(load(out))
    assert stopped
    assert distance(load(out), whole) < 0.05 * distance(stopped[-1], whole)


def test_a_finished_training_is_left_alone_and_continues_with_more_steps(stages: Stages, tmp_path: Path) -> None:
    out, finished = tmp_path / "reader.pt", stages.trained("reader")
    out.write_bytes(finished.read_bytes())
    stages.run("reader", out)
    assert out.read_bytes() == finished.read_bytes()
    stages.run("reader", out, STEPS + 1)
    assert load(out)["phases"]["reader"]["step"] == STEPS + 1
    assert distance(load(out), load(finished)) > 0


def test_another_seed_trains_other_weights(stages: Stages, tmp_path: Path) -> None:
    stages.run("audio2lip", tmp_path / "A.pt", STEPS, "--seed", "1")
    assert distance(load(tmp_path / "A.pt"), load(stages.trained("audio2lip"))) > 0


def exported(stages: Stages, names: Iterable[str], out: Path) -> Path:
    """A bank of the given stages."""
    parser, words = argparse.ArgumentParser(), []
    export.add_options(parser)
    for name in names:
        words += [f"--{name}", str(stages.trained(name))]
    export.run(parser.parse_args([*words, "--out", str(out)]))
    return out


def test_a_bank_of_all_stages_loads(stages: Stages, tmp_path: Path) -> None:
    """Every exported part is found by the renderer, and fits the network that it belongs to."""
    out = exported(stages, (*OPTIONS, *FITS), tmp_path / "bank.safetensors")
    bank = load_bank(out)
    assert bank.has_audio
    face = FaceRenderer(bank, "cpu")
    assert face.reader.can_compare
    picture = np.full((128, 128, 3), 128, np.uint8)
    face.set_source(picture)
    (frame,) = face.render(np.full((1, len(bank.names)), 0.3, np.float32))
    assert frame.shape == picture.shape
    state = audio2lip.started_from(out)
    averaged = load(stages.trained("audio2lip"))["average"]
    assert state.keys() == averaged.keys()


def test_the_close_reader_fits_blend_weights_to_a_bank_without_it(stages: Stages, tmp_path: Path) -> None:
    others = [name for name in (*OPTIONS, *FITS) if name not in ("close-reader", "calibration")]
    bank, out = exported(stages, others, tmp_path / "bank.safetensors"), tmp_path / "close.pt"
    out.write_bytes(stages.trained("close-reader").read_bytes())
    stages.run("close-reader", out, STEPS, "--bank", str(bank))
    share = load(out)["average"]["share"]
    assert share.shape == (2, len(NAMES))
    assert share.isfinite().all()
    assert (share[:, POSE_COLUMNS] == torch.tensor([[0.0], [1.0]])).all(), "the pose is left to the first estimate"
