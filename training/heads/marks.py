"""The landmarks of a rendered head: vertices of the MakeHuman mesh in the order of `inference.face.landmarks.NAMES`.

The tables hold vertex numbers of the original file. They were chosen on the average head, seen from the front. The
outline of the lips lies where their red ends, which differs from person to person.
"""

from __future__ import annotations

import numpy as np

from inference.face.landmarks import INNER_LIPS, LEFT_LIDS, NAMES, RIGHT_LIDS

from . import mesh as heads
from .lips import border

# Right side of the person first, then the left side; from the outside inwards, see `inference.face.landmarks.NAMES`.
VERTICES: dict[str, tuple[int, ...]] = {
    "noseTip": (297,),
    "mouthRight": (3734,),
    "mouthLeft": (10402,),
    "chin": (5296,),
    "lidRight": (1063, 6, 1, 54, 6767, 6771, 44, 36),
    "lidLeft": (7755, 6790, 6785, 6838, 13363, 13367, 6828, 6820),
    "browRight": (720, 3745, 896, 230, 236),
    "browLeft": (7443, 10413, 7598, 7003, 7008),
    "innerUpper": (419, 515, 520, 7262, 7179),
    "innerLower": (475, 487, 523, 7242, 7230),
    "noseBridge": (169, 5063),
    "noseBase": (307,),
    "noseWingRight": (5056,),
    "noseWingLeft": (11673,),
    "jawRight": (5745, 5409, 738, 739, 892, 5294),
    "jawLeft": (12342, 12008, 7458, 7459, 7594, 11900),
}
ACROSS = (0.19, 0.13, 0.06)  # decimetres from the middle to the outline of the lips, from the corner inwards
OUTLINE = {
    **{f"{lip}LipRight{k}": (-x, up) for lip, up in (("upper", 1.0), ("lower", -1.0)) for k, x in enumerate(ACROSS, 1)},
    **{f"{lip}LipLeft{k}": (x, up) for lip, up in (("upper", 1.0), ("lower", -1.0)) for k, x in enumerate(ACROSS, 1)},
    "upperLipTop": (0.0, 1.0),
    "lowerLipBottom": (0.0, -1.0),
}  # distance from the middle to the person's left, and 1 for the upper lip, -1 for the lower
CREASE = 0.029  # of the mouth's width: as far the line between the lips is seen beyond the vertices of its corners
COMPUTED = ("eyeRight", "eyeLeft", "mouthCentre", "irisRight", "irisLeft")
CORNERS = [NAMES.index("mouthRight"), NAMES.index("mouthLeft")]
IRIS_DEPTH = 0.9  # distance of the iris from the centre of the eye ball, in radii


def vertex_table(mesh: heads.Mesh) -> np.ndarray:
    """(COUNT,) index of each landmark's vertex in `mesh`; -1 for those in COMPUTED and OUTLINE."""
    numbers: list[int] = []
    for name in NAMES:
        stem = name.rstrip("0123456789")
        place = int(name[len(stem) :] or 1) - 1
        numbers.append(-1 if stem in COMPUTED or name in OUTLINE else int(mesh.kept[VERTICES[stem][place]]))
    return np.array(numbers)


def lip_outline(paint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and weights, (len(OUTLINE), 3) each, of the outline of the lips. paint: (V,) 0 to 1 on the lips."""
    return border(paint, tuple(OUTLINE.values()))


def landmarks(
    position: np.ndarray, mesh: heads.Mesh, gaze: np.ndarray, outline: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(COUNT, 3) landmarks of the posed vertices `position` (V, 3).

    gaze: (3,) unit direction of both eyes, in the axes of `position`. outline: see `lip_outline`.
    """
    table = vertex_table(mesh)
    points = position[table]
    vertices, weights = outline
    points[[NAMES.index(name) for name in OUTLINE]] = (position[vertices] * weights[..., None]).sum(1)
    right, left = points[CORNERS]
    points[CORNERS] = right - CREASE * (left - right), left + CREASE * (left - right)
    points[0], points[1] = points[RIGHT_LIDS].mean(0), points[LEFT_LIDS].mean(0)
    points[NAMES.index("mouthCentre")] = points[INNER_LIPS].mean(0)
    for name, ball in (("irisRight", mesh.eyes[1]), ("irisLeft", mesh.eyes[0])):
        at = position[ball]
        centre = at.mean(0)
        points[NAMES.index(name)] = centre + IRIS_DEPTH * np.linalg.norm(at - centre, axis=1).mean() * gaze
    return points
