"""The response of the flow to new directions: the drawing moves as the solution predicts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training.learning.losses import sampling_grid
from training.stages.flow_response import ResponseFit, add_response, channel_fields, ignore_directions
from training.stages.footage_generator import footage_config
from training.stages.generator import fresh

DIRECTIONS = 3


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return fresh(footage_config(32)).eval().requires_grad_(False)


def new_directions(model: torch.nn.Module) -> torch.Tensor:
    """(style_dim, 3) orthonormal, and orthogonal to the banks' directions."""
    used = model.basis()
    free = torch.randn(len(used), DIRECTIONS)
    return torch.linalg.qr(free - used @ (used.T @ free)).Q


def test_the_flow_moves_as_the_channels_say(model: torch.nn.Module) -> None:
    directions, at = new_directions(model), torch.rand(2, 40, 2) * 1.6 - 0.8
    ignore_directions(model, directions)
    latent, features = model.enc(torch.rand(2, 3, 32, 32) * 2.0 - 1.0)
    alpha, change = torch.randn(2, 26), torch.randn(2, DIRECTIONS)
    changed = latent + change @ directions.T
    before, unmoved = (list(model.levels(start, features, alpha)) for start in (latent, changed))
    torch.testing.assert_close(unmoved[-1].flow, before[-1].flow, atol=1e-4, rtol=1e-4)
    fields = channel_fields(model, before, at)
    response = 0.03 * torch.randn(fields.shape[3], DIRECTIONS)
    response[: -len(model.dec.to_flows[-1].conv.modulation.weight)] = 0.0  # others change the features of finer levels
    add_response(model, directions, response)
    after = list(model.levels(changed, features, alpha))[-1]
    add_response(model, directions, -response)
    moved = torch.nn.functional.grid_sample(
        (after.flow - unmoved[-1].flow)[:, :2], at[:, None], padding_mode="border", align_corners=False
    )[:, :, 0].transpose(1, 2)
    expected = torch.einsum("npdc,ci,ni->npd", fields, response, change + latent @ directions)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-3)
    assert sampling_grid(after.flow).isfinite().all()


def test_the_solution_moves_what_was_wanted() -> None:
    torch.manual_seed(1)
    true, gathered = torch.randn(6, DIRECTIONS), ResponseFit()
    for _ in range(20):
        fields, change = torch.randn(4, 30, 2, 6), torch.randn(4, DIRECTIONS)
        wanted = torch.einsum("npdc,ci,ni->npd", fields, true, change)
        gathered.add(fields, wanted, torch.rand(4, 30), change)
    assert (gathered.solution() - true).norm() < 0.05 * true.norm()
