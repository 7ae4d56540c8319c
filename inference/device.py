"""The device that renders: opening it, and how many frames it computes together."""

from __future__ import annotations

import torch

from .contract.errors import EDTalkError

BATCH = 8
LARGE = 128  # pixels: frames of larger banks are computed one by one on the CPU, where a batch exceeds the cache
CARD_BATCH = 32  # frames of LARGE pixels on a graphics card; of larger ones as many fewer as they have more pixels


def open_device(name: str) -> torch.device:
    """The device of that name, or with "auto" the fastest one, set up for deterministic results.

    Raises EDTalkError of kind "device" if it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        hint = "Choose auto or cpu, or install PyTorch with support for it."
        if name.startswith("cuda"):
            built = torch.version.cuda is not None or torch.version.hip is not None
            missing = "no usable card or driver was found" if built else "this build of it does not support cards"
            hint = f"PyTorch {torch.__version__} is installed, and {missing}. {hint}"
        raise EDTalkError(f"The device '{name}' is not available.", hint, "device") from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are too few for a flow
        torch.backends.cudnn.deterministic = True
    return device


def default_batch(device: torch.device, size: int) -> int:
    """Frames that are computed together, for a bank of `size` pixels."""
    if device.type == "cuda":
        return max(1, min(CARD_BATCH, CARD_BATCH * LARGE**2 // size**2))
    return 1 if device.type == "cpu" and size > LARGE else BATCH
