"""Ablations of the training without labels: what each row leaves out, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.evaluate.ablations import ABLATIONS, SHOWN, report, started
from training.footage.heads import HeadsAsFootage
from training.stages.footage_generator import footage_config
from training.stages.generator import fresh
from training.stages.mouth import MouthEncoder, fit_codes
from training.stages.mouth_pose import MouthPoseLosses, draw_pairs, pair_batch

from .footage_material import write_faces


def test_free_directions_start_at_the_same_picture_and_are_free() -> None:
    torch.manual_seed(0)
    stage0 = fresh(footage_config(32))
    row = next(ablation for ablation in ABLATIONS if not ablation.orthogonal)
    free = started(row, stage0)
    torch.testing.assert_close(free.basis(), stage0.basis())
    source, alpha = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 26)
    with torch.no_grad():
        assert (free(source, alpha) - stage0(source, alpha)).abs().max() < 1e-4
        free.direction_lipnonlip.weight[:, 1] = free.direction_lipnonlip.weight[:, 0]
    assert (free.basis()[:, 0] @ free.basis()[:, 1]).item() == pytest.approx(1.0, abs=1e-5)


def test_without_pretraining_no_code_is_used(tmp_path: Path) -> None:
    """The losses do not change with the codes, and the heads are those of a new generator."""
    torch.manual_seed(0)
    footage = HeadsAsFootage(write_faces(tmp_path, 4))
    codes = fit_codes(MouthEncoder().eval(), footage).lip_and_pose_codes(footage)
    step = MouthPoseLosses(fresh(footage_config(32)), taught=False)
    found = []
    for values in (codes, -3.0 * codes):
        rng = np.random.default_rng(0)
        batch = pair_batch(footage, values, 32, draw_pairs(footage, rng, 2), rng)
        with torch.no_grad():
            found.append(step(batch))
    assert "hold" not in found[0]
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_the_table_has_a_row_for_each_ablation() -> None:
    row = dict.fromkeys(SHOWN, 0.5)
    text = report({ablation.name: row for ablation in ABLATIONS}, 10, 2)
    assert "10 steps of 2 pairs" in text
    assert all(f"| {ablation.name} | 0.5" in text for ablation in ABLATIONS)
