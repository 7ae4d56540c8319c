"""Photo-based skins, hair, brows, lashes, teeth and eyes for the synthetic heads, from a folder of MakeHuman's assets.

The folder is not part of the project: it is MakeHuman's CC0 system assets (see README.md). Meshes are bound to the base
mesh by `.mhclo` files, so they fit every shape and follow every expression. Lengths are decimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from training.heads import mesh as heads

SIDE = 512  # pixels of a texture's side
FOLDERS = ("skins", "hair", "eyebrows", "eyelashes", "eyes/textures", "teeth", "tongue")
EYE_TEXELS = 1000.0  # texels of the eyes' textures in a decimetre
MOLARS = 1.05  # teeth further back are never seen
NEAREST = 4  # base vertices that a vertex follows which is bound to one that is not rendered


@dataclass(frozen=True, eq=False)
class Bound:
    """A mesh of n vertices that follows the base mesh's V vertices, rendered as c corners with texture coordinates."""

    follow: scipy.sparse.csr_matrix  # (n, V) barycentric weights
    offset: np.ndarray  # (n, 3) float32 from the followed position, on a head of average size
    axes: np.ndarray  # (3, 2) base vertices whose distance along x, y, z scales the offsets
    lengths: np.ndarray  # (3,) that distance on the head for which the offsets were made
    corner: np.ndarray  # (c,) vertex of each corner
    uv: np.ndarray  # (c, 2) float32, 0..1 from the left and top of the texture
    triangles: np.ndarray  # (f, 3) int32 corners
    layer: int  # of the texture

    def rest(self, base: np.ndarray, unit: float) -> np.ndarray:
        """(n, 3) vertices on a head at rest. base: (V, 3) in picture widths; unit: one decimetre in them."""
        spans = np.abs(base[self.axes[:, 0], range(3)] - base[self.axes[:, 1], range(3)])
        return (self.follow @ base + self.offset * (spans / self.lengths)).astype(np.float32)

    @cached_property
    def template(self) -> np.ndarray:
        """(c, 3) corners on the average head, in decimetres."""
        return self.rest(heads.load().template, 1.0)[self.corner]

    @cached_property
    def texels(self) -> tuple[float, float]:
        """Side of a triangle of typical size: in texels, and in decimetres on the average head."""
        a, b, c = (self.template[self.triangles[:, k]] for k in range(3))
        u, v = (self.uv[self.triangles[:, k]] - self.uv[self.triangles[:, 0]] for k in (1, 2))
        flat = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        return SIDE * float(np.sqrt(np.median(flat))), float(np.sqrt(np.median(area)))


@dataclass(frozen=True)
class Assets:
    """Everything of the folder. Layers are indices of `textures`."""

    textures: np.ndarray  # (L, SIDE, SIDE, 4) uint8 sRGB and alpha; hair, brows and lashes are grey
    skins: dict[str, int]  # layer by file name
    skin_colours: dict[str, np.ndarray]  # (3,) mean linear colour of the face, by file name
    eyes: tuple[int, ...]  # layers
    irises: np.ndarray  # (eyes, 3) linear colour of each iris
    hair: dict[str, Bound]  # by folder name
    brows: tuple[Bound, ...]
    lashes: tuple[Bound, ...]
    teeth: tuple[Bound, ...]
    tongue: Bound
    body: Bound  # skin of the base mesh, whose vertices are split at the seams of the texture


@lru_cache(maxsize=1)
def load(folder: Path) -> Assets:
    """Read the assets below `folder`, or below its folder `makehuman`; takes a few seconds.

    Raises FileNotFoundError, in one sentence, if a folder is missing or empty.
    """
    root = folder / "makehuman" if (folder / "makehuman").is_dir() else folder
    missing = [name for name in FOLDERS if not (root / name).is_dir() or not any((root / name).iterdir())]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}. Give the folder of MakeHuman's CC0 assets, or leave out --assets."
        )
    textures: list[np.ndarray] = []

    def layer(path: Path, grey: bool = False) -> int:
        textures.append(_texture(path, grey))
        return len(textures) - 1

    def bound(path: Path, texture: int) -> Bound:
        return _bound(path, texture)

    skins = {path.stem: layer(path) for path in sorted((root / "skins").glob("*.png"))}
    body = _body(0)
    eyes = tuple(layer(path) for path in sorted((root / "eyes/textures").glob("*.png")))
    grey = {
        kind: [
            bound(next(part.glob("*.mhclo")), layer(next(part.glob("*.png")), grey=True))
            for part in sorted((root / kind).iterdir())
        ]
        for kind in ("hair", "eyebrows", "eyelashes")
    }
    names = [part.name for part in sorted((root / "hair").iterdir())]
    enamel = layer(next((root / "teeth").glob("*.png")))
    teeth = tuple(front_of(bound(path, enamel), MOLARS) for path in sorted((root / "teeth").glob("*/*.mhclo")))
    tongue = bound(next((root / "tongue").glob("*/*.mhclo")), layer(next((root / "tongue").glob("*.png"))))
    face = _cheeks(body)
    return Assets(
        textures=np.stack(textures),
        skins=skins,
        skin_colours={name: _sampled(textures[at], face).mean(0) for name, at in skins.items()},
        eyes=eyes,
        irises=np.stack([_iris(textures[at]) for at in eyes]),
        hair=dict(zip(names, grey["hair"], strict=True)),
        brows=tuple(grey["eyebrows"]),
        lashes=tuple(grey["eyelashes"]),
        teeth=teeth,
        tongue=tongue,
        body=body,
    )


# ------------------------------------------------------------------------------------------------------ textures

IRIS_CENTRE, IRIS_RADIUS = (0.71, 0.30), 0.115  # in the eyes' textures


def _texture(path: Path, grey: bool) -> np.ndarray:
    """(SIDE, SIDE, 4) uint8 RGB and alpha; `grey` replaces the colours by brightness that uses the whole range."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise FileNotFoundError(f"{path} is not a picture that can be read.")
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 3:
        picture = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if grey:
        level = picture[..., :3].max(-1).astype(np.float32)
        shown = level[picture[..., 3] > 128]
        low, high = np.percentile(shown, (2, 97)) if shown.size else (0.0, 255.0)
        level = np.clip(255 * (level - low) / max(high - low, 8.0), 0, 255)
        # hidden pixels get the mean, so that they do not darken the borders of strands in smaller copies
        level[picture[..., 3] < 16] = 255 * (np.mean(shown) - low) / max(high - low, 8.0) if shown.size else 0.0
        picture[..., :3] = np.clip(level, 0, 255).astype(np.uint8)[..., None]
    return picture[..., [2, 1, 0, 3]]


def _sampled(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(n, 3) linear colours at texture coordinates (n, 2)."""
    column, row = np.clip((uv * SIDE).astype(int), 0, SIDE - 1).T
    return (texture[row, column, :3] / 255.0) ** 2.2


def _cheeks(body: Bound) -> np.ndarray:
    """(n, 2) texture coordinates of cheeks and forehead."""
    x, y, z = heads.load().template[body.corner].T
    return body.uv[(z > 1.0) & (y > 6.7) & (y < 7.9) & (np.abs(x) < 0.6) & (np.abs(y - 7.3) > 0.25)]


def _iris(texture: np.ndarray) -> np.ndarray:
    """(3,) mean linear colour of the iris."""
    turn = np.linspace(0, 2 * np.pi, 40)
    return _sampled(texture, np.array(IRIS_CENTRE) + 0.07 * np.stack([np.cos(turn), np.sin(turn)], 1)).mean(0)


# -------------------------------------------------------------------------------------------------------- meshes


def _bound(path: Path, layer: int) -> Bound:
    """The mesh beside a `.mhclo` file, bound as the file says."""
    base, rows, axes, lengths = heads.load(), [], np.zeros((3, 2), int), np.ones(3)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            axis = "xyz".index(words[0][0])
            axes[axis], lengths[axis] = base.kept[[int(words[1]), int(words[2])]], float(words[3])
        elif words[0].isdigit() and len(words) == 1:
            rows.append([float(words[0])] * 3 + [1.0, 0.0, 0.0] + [0.0] * 3)
        elif words[0].isdigit() and len(words) == 9:
            rows.append([float(word) for word in words])
    vertices, corner, uv, triangles = _corners(path.with_suffix(".obj"))
    if len(vertices) != len(rows):
        raise FileNotFoundError(f"{path} binds {len(rows)} vertices, but the mesh beside it has {len(vertices)}.")
    table = np.array(rows)
    at = table[:, :3].astype(int)
    shape = (len(rows), len(base.original))
    original = scipy.sparse.csr_matrix((table[:, 3:6].ravel(), (np.arange(len(rows)).repeat(3), at.ravel())), shape)
    rendered, away = _rendered_neighbours()
    offset = table[:, 6:] + original @ away
    return Bound((original @ rendered).tocsr(), offset.astype(np.float32), axes, lengths, corner, uv, triangles, layer)


@lru_cache(maxsize=1)
def _rendered_neighbours() -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Positions of the original file's vertices (19158, 3) from the rendered ones: weights (19158, V) and offsets.

    Vertices that are not rendered follow the nearest ones of the skin, at a fixed distance.
    """
    base = heads.load()
    count, skin = len(base.original), np.flatnonzero(base.part == heads.SKIN)
    away, near = cKDTree(base.template[skin]).query(base.original, k=NEAREST)
    share = 1 / (away + 0.02)
    share, at = share / share.sum(1, keepdims=True), skin[near]
    kept = np.flatnonzero(base.kept >= 0)
    share[kept], at[kept] = np.eye(NEAREST)[0], base.kept[kept, None]
    follow = scipy.sparse.csr_matrix(
        (share.ravel(), (np.arange(count).repeat(NEAREST), at.ravel())), (count, len(base.template))
    )
    offset = base.original - follow @ base.template
    offset[kept] = 0.0
    return follow, offset


@cache
def front_of(bound: Bound, limit: float) -> Bound:
    """Without the triangles that lie behind `limit` (decimetres) on the average head."""
    return replace(bound, triangles=bound.triangles[bound.template[bound.triangles, 2].max(1) > limit])


def _corners(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n, 3), and the `corner`, `uv` and `triangles` of `Bound`, of an `.obj` file."""
    vertices, texture, faces = [], [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "vt":
            texture.append([float(words[1]), 1.0 - float(words[2])])
        elif words[0] == "f":
            pairs = [tuple(int(part) - 1 for part in word.split("/")[:2]) for word in words[1:]]
            faces += [[pairs[0], pairs[k], pairs[k + 1]] for k in range(1, len(pairs) - 1)]
    return np.array(vertices, np.float32), *_split(np.array(faces), np.array(texture, np.float32))


def _split(faces: np.ndarray, texture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners from triangles (f, 3, 2) of vertex and texture index: `corner`, `uv` and `triangles` of `Bound`."""
    pairs, inverse = np.unique(faces.reshape(-1, 2), axis=0, return_inverse=True)
    return pairs[:, 0], texture[pairs[:, 1]], inverse.reshape(-1, 3).astype(np.int32)


def _body(layer: int) -> Bound:
    """The rendered part of the base mesh's skin."""
    base = heads.load()
    original, texture, groups = heads.read_obj(heads.data_folder() / "mpfb2" / "3dobjs" / "base.obj")
    quads = np.array(groups["body"])
    quads = quads[(base.kept[quads[..., 0]] >= 0).all(1)]
    quads = quads[heads.rendered(original[quads[..., 0]])]
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    faces[..., 0] = base.kept[faces[..., 0]]
    corner, uv, triangles = _split(faces, texture * [1, -1] + np.array([0, 1], np.float32))
    count = len(base.template)
    unmoved, ones = np.zeros((count, 3), np.float32), np.ones(3)
    same = scipy.sparse.identity(count, np.float32, format="csr")
    return Bound(same, unmoved, np.zeros((3, 2), int), ones, corner, uv.astype(np.float32), triangles, layer)
