"""The trainer: limits by steps and by minutes, checkpoints that survive interruption, the log."""

from __future__ import annotations

import argparse
import json
import math
import signal
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.errors import EDTalkError
from training.learning.trainer import FOR_STEPS, Limits, Trainer, Unstable, log_line, save_checkpoint
from training.learning.watch import STOP, Stopped, Watch


def make(path: Path, watch: Watch | None = None, **phases: Limits) -> tuple[Trainer, torch.optim.Optimizer]:
    """A trainer of one weight; its optimiser."""
    model, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    parts = {"model": model, "average": average, "optimiser": optimiser}
    args = argparse.Namespace(out=path, rate=0.1, watch=watch)
    trainer = Trainer(args, parts, phases, np.random.default_rng(0), averaged=(model, average), evaluate_every=9.5)
    return trainer, optimiser


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step takes one second."""
    ticks = count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def test_an_interrupted_checkpoint_leaves_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"step": 2, "cannot be saved": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    save_checkpoint({"step": 3}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_log_grows_beside_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        log_line({"step": step}, tmp_path / "model.pt")
    assert lines(tmp_path / "model.pt") == [{"step": 1}, {"step": 2}]
    assert capsys.readouterr().out == (tmp_path / "model.jsonl").read_text()


def test_minutes_limit_a_phase_over_all_runs(tmp_path: Path, seconds: None) -> None:
    path = tmp_path / "model.pt"
    trainer, optimiser = make(path, only=Limits(minutes=0.5))
    progress = list(trainer.steps("only", optimiser, lambda: {"found": trainer.step}))
    np.testing.assert_allclose(progress, np.arange(30) / 30)
    assert [(line["step"], line["found"]) for line in lines(path)] == [(10, 10), (20, 20), (30, 30), (30, 30)]
    assert lines(path)[0]["minutes"] == 0.2
    again, optimiser = make(path, only=Limits(minutes=0.5))
    assert list(again.steps("only", optimiser)) == []
    longer, optimiser = make(path, only=Limits(minutes=0.6))
    assert len(list(longer.steps("only", optimiser))) == 6


@pytest.mark.parametrize(("minutes", "steps", "taken"), [(0.5, 4, 4), (0.1, 40, 6), (math.inf, 3, 3), (1.0, 0, 0)])
def test_whichever_limit_comes_first_ends_a_phase(
    tmp_path: Path, seconds: None, minutes: float, steps: int, taken: int
) -> None:
    trainer, optimiser = make(tmp_path / "model.pt", only=Limits(minutes, steps))
    assert len(list(trainer.steps("only", optimiser))) == taken


def test_a_phase_is_skipped_once_a_later_one_has_started(tmp_path: Path) -> None:
    trainer, optimiser = make(tmp_path / "model.pt", first=Limits(steps=2), second=Limits(steps=3))
    taken = [len(list(trainer.steps(name, optimiser))) for name in ("first", "second")]
    again, optimiser = make(tmp_path / "model.pt", first=Limits(steps=20), second=Limits(steps=4))
    assert taken + [len(list(again.steps(name, optimiser))) for name in ("first", "second")] == [2, 3, 0, 1]
    assert again.step == 6


def test_a_killed_training_continues_from_its_last_checkpoint(
    tmp_path: Path, seconds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.learning.trainer.SAVE_EVERY", 3.5)
    path = tmp_path / "model.pt"
    trainer, optimiser = make(path, only=Limits(minutes=1.0))
    for _ in trainer.steps("only", optimiser):
        with torch.no_grad():
            trainer.parts["model"].weight.fill_(trainer.step)
        trainer.note({"loss": torch.tensor(float(trainer.step))})
        drawn = trainer.rng.random(), torch.rand(())
        if trainer.step == 9:
            break  # nothing is saved
    again, optimiser = make(path, only=Limits(minutes=1.0))
    assert (again.step, again.elapsed, again.parts["model"].weight.item()) == (8, 8.0, 7.0)
    assert again.running["loss"] == pytest.approx(3.5)  # mean of 0 to 7
    assert [(again.rng.random(), torch.rand(())) for _ in range(2)][1] == drawn  # those of the tenth step
    assert sum(1 for _ in again.steps("only", optimiser)) == 52


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    trainer, optimiser = make(tmp_path / "model.pt", only=Limits(steps=200))
    rates = [optimiser.param_groups[0]["lr"] for _ in trainer.steps("only", optimiser)]
    assert 0 < rates[0] < 0.05 * max(rates)
    assert max(rates) == pytest.approx(0.1, rel=0.25)
    assert 50 <= int(np.argmax(rates)) <= 70
    assert rates[-1] < 0.02 * max(rates)


def test_a_value_noted_late_starts_a_mean_of_its_own(tmp_path: Path) -> None:
    trainer, _ = make(tmp_path / "model.pt", only=Limits(steps=2000))
    trainer.states["only"].step = 1000
    trainer.note({"adversarial": torch.tensor(2.0)})
    assert trainer.running == {"adversarial": 2.0}
    trainer.note({"adversarial": torch.tensor(3.0)})
    assert trainer.running["adversarial"] == pytest.approx(2.02)


# Progress entries of checkpoints of earlier versions, and the steps of both phases that they stand for.
OLD = [
    ({"step": 7, "elapsed": 70.0, "running": {}}, (0, 7)),
    ({"steps": [5, 2], "elapsed": [50.0, 20.0]}, (5, 2)),
    ({"step": 7, "spent": 70.0}, (0, 7)),
]


@pytest.mark.parametrize(("progress", "steps"), OLD)
def test_checkpoints_of_earlier_versions_resume(tmp_path: Path, progress: dict, steps: tuple[int, int]) -> None:
    path = tmp_path / "model.pt"
    limits = {"first": Limits(steps=5), "second": Limits(steps=9)}
    trainer, _ = make(path, **limits)
    torch.save({name: part.state_dict() for name, part in trainer.parts.items()} | progress, path)
    again, optimiser = make(path, **limits)
    assert tuple(state.step for state in again.states.values()) == steps
    assert list(again.steps("first", optimiser)) == []
    assert len(list(again.steps("second", optimiser))) == 9 - steps[1]


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    trainer, _ = make(tmp_path / "model.pt", motion=Limits(steps=1))
    trainer.save()
    with pytest.raises(SystemExit, match="expected the phases anchors, found motion"):
        make(tmp_path / "model.pt", anchors=Limits(steps=1))


def unstable(path: Path, losses: list[float]) -> tuple[Trainer, list[float]]:
    """A trainer whose weight grows by one a step while it notes `losses`; the weights before every step."""
    trainer, optimiser = make(path, only=Limits(steps=len(losses)))
    weight, seen = trainer.parts["model"].weight, []
    trainer.parts["average"].load_state_dict(trainer.parts["model"].state_dict())
    for _ in trainer.steps("only", optimiser):
        seen.append(weight.item())
        loss = losses[trainer.step]
        with torch.no_grad():
            weight.add_(1.0 if math.isfinite(loss) else math.nan)
        trainer.note({"loss": torch.tensor(loss)})
    return trainer, seen


def test_a_loss_that_is_no_number_goes_back_to_the_average_at_half_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    trainer, seen = unstable(path, [1.0] * 5 + [math.nan] + [1.0] * 5)
    assert seen[6] == seen[0], "the weights of the begin, which were kept last"
    assert np.isfinite(seen).all()
    assert trainer.halvings == 1
    assert np.isfinite(list(trainer.running.values())).all()
    assert all(part.isfinite().all() for part in trainer.parts["average"].state_dict().values())
    assert [line["rate"] for line in lines(path) if "unstable" in line] == [0.05]
    trainer, _ = make(path, only=Limits(steps=12))
    assert trainer.halvings == 1, "a resumed training keeps the halved rate"


def test_a_loss_that_stays_three_times_its_mean_counts_as_unstable(tmp_path: Path) -> None:
    trainer, _ = unstable(tmp_path / "short.pt", [1.0] * 20 + [4.0] * (FOR_STEPS - 1) + [1.0] * 5)
    assert trainer.halvings == 0
    trainer, _ = unstable(tmp_path / "long.pt", [1.0] * 20 + [4.0] * FOR_STEPS + [1.0] * 5)
    assert trainer.halvings == 1
    trainer, _ = unstable(tmp_path / "high.pt", [1.0] * 20 + [2.9] * 100)
    assert trainer.halvings == 0


def test_the_third_time_the_training_stops_and_names_its_log(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(Unstable, match="unstable for the third time") as found:
        unstable(path, [1.0, math.nan] * 5)
    assert str(path.with_suffix(".jsonl")) in str(found.value)
    assert all(part.isfinite().all() for part in found.value.best.state_dict().values())
    assert [line["unstable"] for line in lines(path)] == [1, 2]


def test_a_stopped_training_returns_its_best_weights(tmp_path: Path) -> None:
    """The best by held-out psnr; the checkpoint goes on from the last."""
    path, figures = tmp_path / "model.pt", iter([1.0, 9.0, 3.0])
    with Watch(tmp_path, "footage", {"only": 1.0}) as watch:
        trainer, optimiser = make(path, watch=watch, only=Limits(steps=9))

        def train() -> None:
            for _ in trainer.steps("only", optimiser, lambda: {"psnr": next(figures)}):
                with torch.no_grad():
                    trainer.parts["model"].weight.fill_(trainer.step)
                trainer.note({"loss": torch.tensor(1.0)})
                if trainer.step == 4:
                    (tmp_path / STOP).touch()

        with pytest.raises(Stopped) as found:
            train()
        watch.end("stopped")
    best = found.value.best.weight.item()
    assert best == trainer.parts["average"].weight.item(), "measured when it stopped, and better than at the begin"
    again, optimiser = make(path, watch=watch, only=Limits(steps=9))
    assert (again.step, again.best_psnr) == (5, 9.0)
    assert sum(1 for _ in again.steps("only", optimiser)) == 4


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    path = tmp_path / "model.pt"
    save_checkpoint({"step": 1}, path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(EDTalkError, match="could not be written") as found:
            save_checkpoint({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert found.value.kind == "disk"
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
