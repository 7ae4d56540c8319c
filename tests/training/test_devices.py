"""Several devices: the gradient of two processes with half of the pairs each is that of one process with all pairs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from inference.contract.errors import EDTalkError
from training.learning.devices import Devices, available_memory

from .footage_material import write_faces

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from training.footage.heads import HeadsAsFootage
from training.learning.devices import Devices
from training.stages.generator import fresh
from training.stages.mouth_pose import MouthPoseLosses, draw_pairs, pair_batch
from training.stages.footage_generator import footage_config

faces, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
footage, rng = HeadsAsFootage(faces), np.random.default_rng(0)
model = fresh(footage_config(32))
batch = pair_batch(footage, np.zeros((len(footage), 26), np.float32), 32, draw_pairs(footage, rng, 4), rng)
devices = Devices(count, "cpu")
step, optimiser = devices.set_up(MouthPoseLosses(model), torch.optim.SGD(model.parameters(), 0.0))
losses = step({name: part[devices.rank :: count] for name, part in batch.items()})
# Losses that are means over pictures; the others are normalised by weights, which differ between halves.
devices.minimise(losses["window"] + losses["feature"] + losses["own"], optimiser, model)
if devices.rank == 0:
    torch.save({name: part.grad for name, part in model.named_parameters() if part.grad is not None}, out)
"""


def gradients(folder: Path, faces: Path, count: int) -> dict[str, torch.Tensor]:
    """Gradients of one step in `count` processes."""
    script, out = folder / "step.py", folder / f"{count}.pt"
    script.write_text(SCRIPT)
    setting = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(
        [sys.executable, str(script), str(faces), str(out), str(count)], capture_output=True, text=True, timeout=300,
        env=os.environ | setting | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(out, weights_only=True)


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    if importlib.util.find_spec("lightning_fabric") is None:
        pytest.skip("Lightning Fabric is not installed; it is needed for several devices only")
    faces = write_faces(tmp_path, 4)
    alone, shared = (gradients(tmp_path, faces, count) for count in (1, 2))
    assert alone.keys() == shared.keys()
    largest = max(part.abs().max().item() for part in alone.values())
    assert largest > 1e-4
    for name, part in alone.items():
        assert (part - shared[name]).abs().max() < 1e-6 * max(1.0, largest), name


def test_several_devices_without_fabric_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(SystemExit, match="2 devices need Lightning Fabric"):
        Devices(2, "cpu")


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    rows, targets = torch.randn(8, 3), torch.randn(8, 1)
    results = []
    for parts in (1, 2):
        model = torch.nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.fill_(0.1)
            model.bias.fill_(0.0)
        devices, optimiser = Devices(accumulate=parts), torch.optim.SGD(model.parameters(), 0.1)
        for some, wanted in zip(rows.chunk(parts), targets.chunk(parts), strict=True):
            devices.minimise((model(some) - wanted).square().mean(), optimiser, model)
        results.append(torch.cat([model.weight.flatten(), model.bias]))
    assert torch.allclose(*results, atol=1e-6)


def test_a_step_that_does_not_fit_is_halved_and_accumulated(capsys: pytest.CaptureFixture[str]) -> None:
    devices, full = Devices(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert devices.halved(6, full, "pairs") == 3
    assert devices.accumulate == 2
    assert capsys.readouterr().out.count("Out of memory with 6 pairs a step") == 1
    assert devices.halved(3, RuntimeError("DefaultCPUAllocator: can't allocate memory"), "pairs") == 1
    assert devices.accumulate == 4
    with pytest.raises(EDTalkError, match="too little memory for 1 pairs"):
        devices.halved(1, full, "pairs")
    with pytest.raises(RuntimeError, match="size mismatch"):
        devices.halved(4, RuntimeError("size mismatch"), "pairs")


def test_pairs_are_halved_before_the_first_step_if_memory_is_short() -> None:
    devices = Devices()
    assert devices.fitted(6, 1e8, "pairs", available=1e9) == 6
    assert devices.accumulate == 1
    assert devices.fitted(6, 1e9, "pairs", available=4e9) == 3
    assert devices.accumulate == 2
    assert devices.fitted(6, 1e12, "pairs", available=4e9) == 1
    assert available_memory() > 0
