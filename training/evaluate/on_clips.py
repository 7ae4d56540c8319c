"""Whether banks made from clips are disentangled: by points that are detected in what they draw, as there is no truth.

A portrait of a held-out part of a take is drawn with the codes of another frame; then the lip code, or the pose code,
is exchanged for that of a third frame. The landmark network finds nine points in both drawings.
"""

from __future__ import annotations

import numpy as np
import torch

from inference.model.generator import Generator

from ..footage.prepare import SURE, Finder, landmark_finder
from ..footage.takes import (
    CHIN,
    EYES,
    LEFT_CORNER,
    LOWER_LIP,
    NINE,
    NOSE,
    RIGHT_CORNER,
    UPPER_LIP,
    Footage,
    eye_frame,
    to_eye_frame,
)
from ..stages.footage_generator import anchored_latent
from ..stages.mouth import GAIN, MotionCodes

CLIP_GOALS = {"lip_effect": 3.0, "pose_effect": 4.0}


def lip_effect(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Mean motion of mouth and chin, and of eyes and nose, in eye distances. before, after: (E, P, 2) points."""
    motion = np.linalg.norm(after - before, axis=-1) / eye_frame(before)[2][:, None]
    return float(motion[:, LEFT_CORNER : CHIN + 1].mean()), float(motion[:, [*EYES, NOSE]].mean())


def pose_effect(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Mean motion of eyes and nose, and mean change of the mouth's opening and width, both in eye distances."""
    own = lip_effect(before, after)[1]
    shapes = []
    for points in (before, after):
        local = to_eye_frame(points)
        across = np.linalg.norm(local[:, RIGHT_CORNER] - local[:, LEFT_CORNER], axis=-1)
        shapes.append(np.stack([across, np.linalg.norm(local[:, LOWER_LIP] - local[:, UPPER_LIP], axis=-1)], 1))
    return own, float(np.abs(shapes[1] - shapes[0]).mean())


def found_points(pictures: torch.Tensor, find: Finder = landmark_finder) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, P, 2) in [-1, 1] of pictures (N, 3, R, R), and how sure the least sure one of the nine is (N,)."""
    size, points, sure = pictures.shape[-1], [], []
    for picture in ((pictures.clamp(-1, 1) + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy():
        at, certainty = find(np.ascontiguousarray(picture), (0.0, 0.0, float(size)))
        points.append((np.asarray(at) + 0.5) * 2.0 / size - 1.0)
        sure.append(float(np.min(certainty[: len(NINE)])))
    return np.stack(points).astype(np.float32), np.array(sure)


@torch.no_grad()
def clip_figures(
    model: Generator, footage: Footage, teacher: MotionCodes, exchanges: int = 48, find: Finder = landmark_finder
) -> dict[str, float]:
    """Effects of exchanging the lip code and the pose code on held-out footage, by detected points.

    `lip_effect`: motion of mouth and chin over that of eyes and nose; `pose_effect`: motion of eyes and nose over the
    change of the mouth's shape. `*_true`: the same between the two frames themselves, for the size of the motion.
    """
    rng, codes = np.random.default_rng(0), teacher.lip_and_pose_codes(footage) * GAIN
    source, driving = footage.sample_pairs(rng, exchanges, 2, neutral=1.0)
    lips = model.config.bank_slices["lip"]
    alpha = np.stack([codes[driving[:, 0]]] * 3, 1)
    alpha[:, 1, lips] = codes[driving[:, 1]][:, lips]
    alpha[:, 2] = codes[driving[:, 1]]
    alpha[:, 2, lips] = codes[driving[:, 0]][:, lips]
    rendered = []
    for part in np.array_split(np.arange(exchanges), -(-exchanges // 8)):
        latent, features = model.enc(footage.pictures(source[part], model.config.size))
        anchored = anchored_latent(model, latent, torch.from_numpy(codes[source[part]]))
        rows = torch.from_numpy(alpha[part]).flatten(0, 1)
        if "exp" in model.config.bank_slices:
            rows = torch.cat([rows, torch.zeros(len(rows), model.config.coefficient_count - rows.shape[1])], 1)
        *_, last = model.levels(anchored, features, rows)
        rendered.append(last.rgb)
    points, sure = found_points(torch.cat(rendered), find)
    points, sure = points.reshape(exchanges, 3, -1, 2), sure.reshape(exchanges, 3).min(1)
    kept = sure >= SURE
    if not kept.any():
        raise SystemExit("No face was found in the drawn pictures. Train for longer.")
    before = points[kept, 0]
    (mouth, rest), (head, shape) = lip_effect(before, points[kept, 1]), pose_effect(before, points[kept, 2])
    one, other = footage.points[driving[:, 0]], footage.points[driving[:, 1]]
    result = {
        "exchanges": float(kept.sum()), "lip_effect": mouth / rest, "pose_effect": head / shape,
        "mouth_moved": mouth, "eyes_moved": rest, "head_moved": head, "mouth_changed": shape,
        "mouth_true": lip_effect(one, other)[0], "head_true": pose_effect(one, other)[0],
    }  # fmt: skip
    return {name: round(value, 4) for name, value in result.items()}
