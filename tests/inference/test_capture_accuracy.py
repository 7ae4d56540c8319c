"""What the starter bank reads off a real performance, and gives to somebody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inference.bank import load_bank
from inference.capture import capture
from inference.clip import Clip
from inference.demo import PORTRAIT
from inference.picture import load_picture
from inference.renderer import FaceRenderer


def test_a_heads_turns_arrive_on_another_head(media: Path) -> None:
    """The difference from the first frame, added to the portrait's own pose; angles of the result are read again."""
    bank = load_bank()
    face = FaceRenderer(bank, "cpu")
    clip = Clip(media / "pose_source1.mp4", 8.0, 0.0, None)
    acted = capture(face, clip, "auto").rows
    face.set_source(load_picture(PORTRAIT).rgb)
    pose = bank.config.bank_slices["pose"]
    rows = np.repeat(face.source_coefficients.values, len(acted), 0)
    rows[:, pose] += acted.values[:, pose] - acted.values[0, pose]
    seen = face.encode(face.render(rows))
    for angle in ("headYaw", "headPitch", "headRoll"):
        assert np.corrcoef(seen.column(angle), acted.column(angle))[0, 1] > 0.8, angle
