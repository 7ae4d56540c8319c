"""What a trainer leaves beside its networks: checkpoints that are whole, and a log to plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; one that is interrupted leaves the one before as it was."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def log_line(line: Mapping[str, Any], path: Path) -> None:
    """Add a line to the log beside the checkpoint `path`, and show it."""
    text = json.dumps(line)
    with path.with_suffix(".jsonl").open("a") as lines:
        lines.write(text + "\n")
    print(text, flush=True)
