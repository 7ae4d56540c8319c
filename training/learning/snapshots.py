"""Rendered heads made to look like photographs of faces, for the training of landmarks.

A snapshot is a square cut from a rendered picture with random framing, backdrop, covering objects, light, camera and
codec. Negative snapshots show no face, or no face that a landmark network should accept.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from inference.face.landmarks import COUNT, MIRROR, SIDE, frame_of

from .augment import array_noise, compressed

SURE = 0.7  # share of snapshots with the framing of a good crop; the others are framed as by a rough detector


@dataclass(frozen=True)
class Snapshot:
    """See the module."""

    picture: np.ndarray  # (SIDE, SIDE, 3) uint8
    points: np.ndarray  # (COUNT, 2) pixels of the picture
    shown: np.ndarray  # (COUNT,) 1 where a landmark is in the picture and not covered
    present: float  # 1 if the picture shows a face, 0 if not


def snapshot(
    frame: np.ndarray, mask: np.ndarray, points: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> Snapshot:
    """A picture with a face. frame: (S, S, 3) uint8; mask: (S, S) uint8 coverage by the person; points: (COUNT, 2)
    pixels of the frame; other: (S, S, 3) uint8, any picture, of which parts serve as backdrop and as covering objects.
    """
    sure = rng.random() < SURE
    turn, size, shift = (8, 0.07, 0.03) if sure else (18, 0.18, 0.08)
    matrix = framing(points, rng.normal(0, turn), np.exp(rng.normal(0, size)), rng.normal(0, shift, 2))
    if rng.random() < 0.15:  # another shape of face
        stretch = np.diag([np.exp(rng.normal(0, 0.07)), 1.0, 1.0])
        matrix = (centred() @ stretch @ np.linalg.inv(centred()) @ np.vstack([matrix, (0, 0, 1)]))[:2]
    if rng.random() < 0.7:
        frame = with_backdrop(frame, mask, other, rng)
    picture = warped(frame, matrix)
    at = points @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
        at = (at * (-1, 1) + (SIDE - 1, 0))[MIRROR]
    visible = np.all((at > 0) & (at < SIDE - 1), axis=1).astype(np.float32)
    if rng.random() < 0.2:
        picture = with_glasses(picture, at, rng)
    if rng.random() < 0.3:
        picture, cover = covered(picture, at, other, rng)
        column, row = np.clip(np.rint(at), 0, SIDE - 1).astype(int).T
        visible *= 1 - cover[row, column]
    return Snapshot(photographed(picture, rng), at.astype(np.float32), visible.astype(np.float32), 1.0)


def negative(frame: np.ndarray, points: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Snapshot:
    """A picture without a face that could be used: beside the face, far too large or small, upside down, distorted
    beyond human proportions, without eyes, cut into pieces, or a texture.
    """
    kind = rng.integers(0, 7)
    turn, size, shift = rng.normal(0, 15), np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.05, 2)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        shift = rng.uniform(0.55, 1.1) * np.array([np.cos(angle), np.sin(angle)])
    elif kind == 1:
        size = rng.choice([rng.uniform(2.6, 6.0), rng.uniform(0.2, 0.36)])
    elif kind == 2:
        turn = rng.uniform(120, 240)
    matrix = framing(points, turn, size, shift)
    if kind == 3:  # the proportions of an animal
        stretch = np.diag([rng.choice([rng.uniform(0.4, 0.62), rng.uniform(1.6, 2.4)]), 1.0, 1.0])
        matrix = (centred() @ stretch @ np.linalg.inv(centred()) @ np.vstack([matrix, (0, 0, 1)]))[:2]
    picture = warped(frame, matrix)
    if kind == 3 or (kind == 4 and rng.random() < 0.5):
        picture = furry(picture, rng)
    if kind == 4:
        at = points @ matrix[:, :2].T + matrix[:, 2]
        kept = rng.random()
        for eye, corner in ((0, 3) if kept < 0.7 else (3, 3), (1, 4) if kept > 0.3 else (4, 4)):
            picture = without(picture, at[eye], 0.75, rng)
            picture = without(picture, at[corner], 0.5, rng)
    elif kind == 5:
        cells = int(rng.integers(2, 5))
        edge = SIDE // cells
        order = rng.permutation(cells * cells)
        result = picture.copy()
        for place, source in enumerate(order):
            (row, column), (y, x) = divmod(place, cells), divmod(int(source), cells)
            result[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] = picture[
                y * edge : (y + 1) * edge, x * edge : (x + 1) * edge
            ]
        picture = result
    elif kind == 6:
        picture = furry(texture(rng), rng) if rng.random() < 0.5 else texture(rng)
    nowhere = np.zeros((COUNT, 2), np.float32)
    return Snapshot(photographed(picture, rng), nowhere, np.zeros(COUNT, np.float32), 0.0)


def centred() -> np.ndarray:
    """(3, 3) shift from the picture's centre to the origin's place in pixels."""
    middle = (SIDE - 1) / 2
    return np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1.0]])


def framing(points: np.ndarray, turn: float, size: float, shift: np.ndarray) -> np.ndarray:
    """(2, 3) matrix from frame pixels to snapshot pixels. turn: degrees; size: 2 is twice as large; shift: in sides."""
    angle = np.radians(turn)
    spin = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    about = np.eye(3)
    about[:2, :2], about[:2, 2] = spin, SIDE * shift
    placed = centred() @ about @ np.linalg.inv(centred()) @ np.vstack([frame_of(points, SIDE).to_crop, (0, 0, 1)])
    return placed[:2]


def warped(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The snapshot's square of a frame; edges are repeated."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if scale < 0.6:
        frame = cv2.GaussianBlur(frame, (0, 0), 0.35 / scale)
    return cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def texture(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: noise at random scales and directions, stripes, or lines of dark marks like text."""
    kind, base = rng.integers(0, 3), rng.uniform(0, 255, 3)
    if kind == 2:
        page = np.full((SIDE, SIDE, 3), rng.uniform(120, 255), np.float32)
        pitch, height = int(rng.integers(5, 16)), int(rng.integers(2, 8))
        for top in range(int(rng.integers(0, pitch)), SIDE, pitch):
            marks = (array_noise((SIDE,), rng) > rng.uniform(-0.5, 0.7)).astype(np.float32)
            page[top : top + height] *= 1 - rng.uniform(0.5, 0.95) * marks[:, None]
        return page.astype(np.uint8)
    rows, columns = (int(rng.integers(3, SIDE)) for _ in range(2))
    noise = cv2.resize(array_noise((rows, columns, 3), rng), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        noise = noise.mean(2, keepdims=True) + 0.2 * noise
    return np.clip(base + noise * rng.uniform(10, 80), 0, 255).astype(np.uint8)


def furry(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with strands of hair all over."""
    strands = cv2.GaussianBlur(
        array_noise((SIDE, SIDE), rng), (0, 0), rng.uniform(0.6, 1.2), sigmaY=rng.uniform(1.5, 5)
    )
    turned = cv2.warpAffine(
        strands, cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.uniform(-60, 60), 1.5), (SIDE, SIDE),
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    tint = rng.uniform(0.4, 1.2, 3)
    return np.clip(picture * tint * (1 + rng.uniform(0.3, 1.2) * turned[..., None]), 0, 255).astype(np.uint8)


def without(picture: np.ndarray, at: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """The picture with the surroundings of a point replaced by a smooth patch of its own colour."""
    mask = np.zeros((SIDE, SIDE), np.float32)
    cv2.circle(mask, np.rint(at).astype(int).tolist(), int(17 * reach), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 3)[..., None]
    smooth = cv2.blur(picture, (41, 41)) * rng.uniform(0.9, 1.1)
    return (picture * (1 - mask) + smooth * mask).clip(0, 255).astype(np.uint8)


def with_backdrop(frame: np.ndarray, mask: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The person of a frame before another backdrop."""
    if rng.random() < 0.5:
        behind = cv2.resize(texture(rng), frame.shape[1::-1])
    else:
        start = rng.integers(0, len(other) // 2, 2)
        behind = cv2.resize(other[start[0] :, start[1] :], frame.shape[1::-1])
        if rng.random() < 0.5:
            behind = behind[::-1]
    share = (mask / np.float32(255))[..., None]
    return (frame * share + behind * (1 - share)).astype(np.uint8)


def with_glasses(picture: np.ndarray, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with a pair of glasses, sometimes dark or with a reflection."""
    right, left = at[0], at[1]
    across = left - right
    distance = float(np.hypot(*across)) + 1e-3
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    down = np.array([-across[1], across[0]]) / distance
    width, height = rng.uniform(0.33, 0.48) * distance, rng.uniform(0.22, 0.42) * distance
    colour = (rng.uniform(0, 1) ** 2 * rng.uniform(60, 230, 3)).tolist()
    result, fill = picture.copy(), picture.copy()
    thickness = int(rng.integers(1, 4))
    tint = rng.uniform(0, 255, 3).tolist()
    for eye, outward in ((right, -1), (left, 1)):
        middle = eye + down * 0.08 * distance + across * 0.03 * outward
        box = (middle.tolist(), (2 * width, 2 * height), angle)
        shape = cv2.boxPoints(box).astype(np.int32)
        round_ = rng.random() < 0.6
        if round_:
            cv2.ellipse(fill, box, tint, -1)
            cv2.ellipse(result, box, colour, thickness, cv2.LINE_AA)
        else:
            cv2.fillPoly(fill, [shape], tint)
            cv2.polylines(result, [shape], True, colour, thickness, cv2.LINE_AA)
        temple = middle + outward * across / distance * width
        end = (temple + outward * across * 0.5).astype(int).tolist()
        cv2.line(result, temple.astype(int).tolist(), end, colour, thickness, cv2.LINE_AA)
    bridge = [
        (eye + across / distance * sign * width * 0.9).astype(int).tolist() for eye, sign in ((right, 1), (left, -1))
    ]
    cv2.line(result, *bridge, colour, thickness, cv2.LINE_AA)
    opaque = rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0.5, 0.85)], p=[0.55, 0.3, 0.15])
    lens = np.any(fill != picture, axis=2, keepdims=True)
    tinted = np.where(lens, result * (1 - opaque) + np.array(tint) * 0.35 * opaque, result)
    return tinted.clip(0, 255).astype(np.uint8)


def covered(
    picture: np.ndarray, at: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The picture with an object before the face, and (SIDE, SIDE) where it covers the picture, 0 or 1."""
    cover = np.zeros((SIDE, SIDE), np.uint8)
    middle = at[rng.integers(0, 9)] + rng.normal(0, 10, 2)
    size = rng.uniform(6, 26, 2)
    box = (middle.tolist(), (2 * size).tolist(), rng.uniform(0, 180))
    if rng.random() < 0.6:
        cv2.ellipse(cover, box, 1, -1)
    else:
        cv2.fillPoly(cover, [cv2.boxPoints(box).astype(np.int32)], 1)
    if rng.random() < 0.4:  # a microphone's rod, an arm, a strand of hair
        end = (middle + rng.normal(0, 1, 2) * SIDE).astype(int).tolist()
        cv2.line(cover, middle.astype(int).tolist(), end, 1, int(rng.integers(2, 16)))
    kind = rng.random()
    if kind < 0.35:
        over = np.full_like(picture, 0) + rng.uniform(0, 255, 3).astype(np.uint8)
    elif kind < 0.7:  # like a hand, of the colour of the face
        over = cv2.blur(np.roll(picture, rng.integers(0, SIDE, 2), (0, 1)), (9, 9))
    else:
        over = cv2.resize(other, (SIDE, SIDE))
    soft = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), rng.uniform(0.4, 1.2))[..., None]
    return (picture * (1 - soft) + over * soft).astype(np.uint8), cover.astype(np.float32)


def photographed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, colour, painting, blur, noise and codec."""
    levels = picture.astype(np.float32) / 255
    if rng.random() < 0.5:  # a light from one side, or a shadow
        direction = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[-1 : 1 : len(levels) * 1j, -1 : 1 : levels.shape[1] * 1j]
        slope = np.cos(direction) * x + np.sin(direction) * y + rng.normal(0, 0.3)
        edge = rng.uniform(1.0, 12.0)
        levels = levels * (1 + rng.uniform(-0.6, 0.5) * np.tanh(edge * slope))[..., None].astype(np.float32)
    levels = np.clip(levels, 0, 1) ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.25:
        levels = levels.mean(2, keepdims=True) + rng.choice([0.0, 0.25]) * (levels - levels.mean(2, keepdims=True))
    gain = np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.12, 3))
    levels = np.clip(levels * gain + rng.normal(0, 0.06), 0, 1)
    result = (levels * 255).astype(np.uint8)
    kind = rng.random()
    if kind < 0.06:  # a painting
        result = cv2.medianBlur(result, 5)
    elif kind < 0.12:  # a drawing: flat colours and dark outlines
        grey = cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)
        lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, rng.uniform(3, 10))
        flat = cv2.medianBlur(result // 48 * 48 + 24, 5)
        result = np.where(lines[..., None] > 0, flat, flat // 4)
    elif kind < 0.3:  # sharpened
        soft = cv2.GaussianBlur(result, (0, 0), rng.uniform(1, 3))
        result = cv2.addWeighted(result, 1 + (amount := rng.uniform(0.3, 1.5)), soft, -amount, 0)
    if rng.random() < 0.3:
        result = cv2.GaussianBlur(result, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.1:
        length = int(rng.integers(3, 9))
        kernel = np.eye(length, dtype=np.float32) / length
        result = cv2.filter2D(result, -1, kernel if rng.random() < 0.5 else kernel[::-1])
    if rng.random() < 0.25:
        factor = rng.uniform(0.25, 0.8)
        small = cv2.resize(result, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        result = cv2.resize(small, result.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.6:
        noise = array_noise(result.shape, rng) * rng.uniform(0, 14)
        result = np.clip(result + noise, 0, 255).astype(np.uint8)
    return compressed(result, rng, chance=0.5, quality=(25, 95))
