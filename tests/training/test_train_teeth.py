"""The teeth stage: its losses, its figures, and what it sees of a rendered head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moderngl", reason="moderngl draws the heads")

from inference.contract.bank import STARTER, load_bank
from inference.model.teeth import MASKS, SMOOTH, Teeth, TeethConfig
from training.heads import render
from training.heads.lifelike_render import LifelikeRenderer
from training.learning.losses import weighted_sum
from training.stages.teeth import WEIGHTS, MouthInputRecorder, Pool, figures, losses_of, person_samples
from training.units import NAMES

from .conftest import DRAWN, write_windows
from .test_lifelike import write_assets


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(write_windows(tmp_path / "windows", 2), 2, STARTER, None)


def network() -> Teeth:
    torch.manual_seed(0)
    made = Teeth(TeethConfig((8, 12), len(NAMES)))
    made.texture[:, 3] = 1.0
    return made


def exact(truth: dict[str, torch.Tensor]) -> torch.Tensor:
    """Planes that are the truth."""
    logits = 40 * truth["masks"] - 20
    colours = truth["colours"].repeat(1, 2, 1, 1)
    return torch.cat([logits, truth["places"], colours], 1)


def test_the_truth_has_the_smallest_losses(pool: Pool) -> None:
    truth = pool.batch(pool.training[:4])
    best = losses_of(exact(truth), truth, network().texture)
    assert all(best[name] < 1e-3 for name in ("coordinates", "teeth", "mouth"))
    for first, last, name in ((2, 3, "masks"), (MASKS, MASKS + 1, "coordinates"), (MASKS + 4, MASKS + 7, "teeth")):
        planes = exact(truth)
        planes[:, first:last] += 0.5 if first >= MASKS else -0.5 * planes[:, first:last]
        assert losses_of(planes, truth, network().texture)[name] > best[name]
    assert planes.shape[1] == MASKS + SMOOTH


def test_a_few_steps_learn_where_the_mouth_is(pool: Pool, tmp_path: Path) -> None:
    made = network()
    optimiser, truth = torch.optim.Adam(made.parameters(), 1e-2), pool.batch(pool.training[::2])
    before = figures(made.eval(), pool, tmp_path / "before")
    made.train()
    for _ in range(30):
        planes = made(truth["seen"], truth["condition"], truth["condition"][:, -3:])
        optimiser.zero_grad()
        weighted_sum(losses_of(planes, truth, made.texture), WEIGHTS).backward()
        optimiser.step()
    after = figures(made.eval(), pool, tmp_path / "after")
    assert after["inside"] > max(0.5, before["inside"])
    assert after["coordinates"] < before["coordinates"]
    assert (tmp_path / "after.png").exists()


def test_a_pool_with_too_few_people_needs_the_assets(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has 2 of 3 people\. Give --assets"):
        Pool(write_windows(tmp_path / "windows", 2), 3, STARTER, None)


def test_the_bank_sees_a_rendered_head(drawer: render.Renderer, tmp_path: Path) -> None:
    lifelike = LifelikeRenderer(DRAWN, write_assets(tmp_path / "assets", np.full((8, 8, 3), 150, np.uint8)))
    found = person_samples(lifelike, MouthInputRecorder(load_bank(STARTER)), 0)
    assert {len(part) for part in found.values()} == {16}
    assert all(np.isfinite(part).all() for part in found.values())
    inside = found["masks"][:, 2].mean((1, 2))
    assert inside[:8].argmin() == 0, "the first frame is the source at rest, whose lips are closed"
    assert inside[1:8].max() > 5
    middle = found["masks"][:, 2].mean((0, 1))
    assert middle[18:54].sum() > 5 * (middle[:18].sum() + middle[54:].sum()), "the mouth is in the window's middle"
