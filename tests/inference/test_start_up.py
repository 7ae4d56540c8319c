"""What the start of the worker costs: imported modules and garbage collection."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from inference.worker.worker import collection_paused


def test_starting_the_worker_imports_only_what_every_portrait_needs():
    """Each of these takes up to a second at every start; some functions on the meta device import torch's compiler.

    The latter also holds for the networks of speech, which are built at its first use.
    """
    late = [
        "sympy",
        "torch._dynamo",
        "torch._inductor",
        "torch.onnx",
        "scipy",
        "av",
        "librosa",
        "sklearn",
        "matplotlib",
    ]
    code = (
        "import sys\n"
        "from inference.worker.jobs import Jobs\n"
        "Jobs('cpu').shots.bank('').renderer\n"
        f"print([name for name in {late} if name in sys.modules])\n"
        "from inference.contract.bank import load_bank\n"
        "from inference.model.load import AUDIO2EXPRESSION, AUDIO2LIP, AUDIO2POSE, load_network\n"
        "assert all(load_network(load_bank(), name) for name in (AUDIO2EXPRESSION, AUDIO2LIP, AUDIO2POSE))\n"
        f"print([name for name in {late[:3]} if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["[]", "[]"]


def test_libraries_are_loaded_without_importing_torch():
    code = (
        "import sys\n"
        "from inference.preload import load_torch_libraries\n"
        "thread = load_torch_libraries()\n"
        "assert (thread is not None) == (sys.platform == 'linux')\n"
        "print('torch' in sys.modules)\n"
        "import torch\n"
        "print(float(torch.ones(3, 3).mm(torch.ones(3, 3)).sum()))\n"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "27.0"]


@pytest.mark.parametrize("error", [None, ImportError])
def test_garbage_collection_is_paused_for_imports_only(error):
    try:
        with contextlib.suppress(ImportError), collection_paused():
            assert not gc.isenabled()
            if error is not None:
                raise error
        assert gc.isenabled()
    finally:
        gc.unfreeze()
