"""Renders people with the photo-based assets of `training.heads.assets`; ground truth as in `training.heads.render`."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import moderngl
import numpy as np
import scipy.sparse

from training.heads import assets as asset_files
from training.heads import mesh as heads
from training.heads import teeth
from training.heads.identity import Identity
from training.heads.lifelike import Look, Piece, look
from training.heads.lifelike_shaders import CARDS, SHADE, SURFACE, SURFACE_VERTEX
from training.heads.lips import repainted
from training.heads.render import OVERSAMPLING, SURFACES, Frame, Renderer, renderer, with_lids
from training.heads.shaders import WHOLE_PICTURE

ALBEDO = 8  # texture unit
# Ambient occlusion: radii in picture widths, depth at which it is full, and strength.
RADII, DEEP, OCCLUSION = (0.022, 0.06), (0.045, 0.10), 0.6
REACH, STEPS, SOFT, CAST = 0.11, 4, 0.03, 0.5  # cast shadows: reach and softness in picture widths, strength
HAIR = 0.15  # thickness in picture widths; hair moves with the point of the scalp that it covers
INSIDE = 191  # paint of the inside of the mouth, of 128 to 255
WARM = np.array([0.75, 1.0, 1.08], np.float32)  # exponents: skin scatters red light into shadows


class LifelikeRenderer(Renderer):
    """`Renderer` with photo-based assets. folder: see `assets.load`."""

    def __init__(self, size: int, folder: Path) -> None:
        super().__init__(size)
        self.assets = asset_files.load(folder)
        counts = [count for _, count in heads.POINT_GROUPS]
        of_scalp = np.repeat([name == "scalp" for name, _ in heads.POINT_GROUPS], counts)
        self.tolerance = np.where(of_scalp, HAIR, self.tolerance)
        side = size * OVERSAMPLING
        for texture in self.surface:
            texture.release()
        self.surface = [self.context.texture((side, side), 4, dtype=kind) for kind in ("f4", "f1", "f1", "f2")]
        self.surface_target = self.context.framebuffer(self.surface, self.depth)
        shape = (asset_files.SIDE, asset_files.SIDE, len(self.assets.textures))
        self.albedo = self.context.texture_array(shape, 4, self.assets.textures.tobytes())
        self.albedo.build_mipmaps()
        self.albedo.filter = (moderngl.LINEAR_MIPMAP_NEAREST, moderngl.LINEAR)
        self.albedo.use(ALBEDO)
        self.drawing = self.context.program(vertex_shader=SURFACE_VERTEX, fragment_shader=SURFACE)
        self.cutting = self.context.program(vertex_shader=SURFACE_VERTEX, fragment_shader=CARDS)
        self.program = self.context.program(vertex_shader=WHOLE_PICTURE, fragment_shader=SHADE)
        self.picture = self.context.vertex_array(self.program, [])
        for unit, (name, texture) in enumerate(zip((*SURFACES, "surface_uv"), self.surface, strict=True), 1):
            texture.use(unit)
            self.program[name].value = unit
        for program in (self.cutting, self.program):
            program["albedo"].value = ALBEDO
        self.program["grain"].value = 55.0
        self.sums = self.without_hair[1][: self.mesh.shell_start]
        # base vertices that are drawn: the skin, split at the seams of its texture, and the eyes
        eyes = np.flatnonzero(self.mesh.part == heads.EYE)
        of_eyes = self.mesh.triangles[np.isin(self.mesh.triangles[:, 0], eyes)]
        body = _in_front(self.assets.body, self.mesh)
        self.base = np.concatenate([body.corner, eyes])
        place = np.zeros(len(self.mesh.part), np.int64)
        place[eyes] = len(body.corner) + np.arange(len(eyes))
        self.base_triangles = np.concatenate([body.triangles, place[of_eyes]]).astype(np.int32)

    def show(self, person: Identity) -> None:
        """Choose the person that `render` draws."""
        self.look = look(person, self.assets)
        super().show(person)
        for name, value in self.look.uniforms.items():
            if name in self.program:
                self.program[name].value = tuple(np.atleast_1d(value)) if np.ndim(value) else float(value)
        self.program["eye_layer"].value = float(self.look.eye)
        self.cutting["camera"].write(self.projection.T.astype("f4").tobytes())
        self._upload(person, self.look)

    def _upload(self, person: Identity, look: Look) -> None:
        """Create the buffers of the person's surfaces."""
        mesh, pieces = self.mesh, (*look.solid, *look.cards)
        part = mesh.part[self.base]
        layer = np.where(part == heads.SKIN, look.skin, look.eye)
        uv = np.zeros((len(self.base), 2), np.float32)
        body = self.assets.body
        uv[: len(body.uv)] = repainted(body.uv, body.corner, person.lips)
        self.program["detail"].value = tuple(self._detail(person.unit, piece_of) for piece_of in range(8))
        local = np.pad(person.local, ((0, 0), (0, 1)))
        paint = np.where(mesh.part[:, None] == heads.SKIN, person.paint, local)[self.base]
        whole = np.ones(len(part))
        fixed = [np.column_stack([mesh.template[self.base], paint, self.cavity[self.base], part, layer, whole, uv])]
        for piece in pieces:
            rows = np.zeros((len(piece.rest), 13), np.float32)
            rows[:, :3], rows[:, 7], rows[:, 8] = piece.template, 1.0, piece.part
            rows[:, 9], rows[:, 10], rows[:, 11:] = piece.layer, piece.opacity, piece.uv
            if piece.part == heads.TEETH and piece.bound is not None:  # whose occlusion is not drawn
                rows[:, 7] = teeth.is_lower(piece.bound, mesh)
            fixed.append(rows)
        still = np.concatenate(fixed).astype("f4")
        starts = np.cumsum([len(self.base)] + [len(piece.rest) for piece in pieces])
        solid = [piece.triangles + start for piece, start in zip(look.solid, starts, strict=False)]
        cards = [piece.triangles + start for piece, start in zip(look.cards, starts[len(look.solid) :], strict=False)]
        groups = [self.base_triangles, np.concatenate(solid), np.concatenate(cards)]
        for old in getattr(self, "_buffers", ()):
            old.release()
        self.moving = self.context.buffer(reserve=len(still) * 24, dynamic=True)
        self.still = self.context.buffer(still.tobytes())
        layout = [
            (self.moving, "3f 3f", "position", "normal"),
            (self.still, "3f 4f 4f 2f", "template_position", "paint", "cavity_part_layer_opacity", "uv"),
        ]
        indices = [self.context.buffer(group.astype("i4").tobytes()) for group in groups]
        self.arrays = [
            self.context.vertex_array(program, layout, index, index_element_size=4)
            for program, index in zip((self.drawing, self.drawing, self.cutting), indices, strict=True)
        ]
        self._buffers = [*self.arrays, self.moving, self.still, *indices]
        self.piece_rest = np.concatenate([piece.rest for piece in pieces])
        self.piece_weight = np.concatenate([piece.weight for piece in pieces])
        self.piece_normal = np.concatenate([_normals(piece, person.unit) for piece in pieces])
        self.follow = scipy.sparse.vstack([self._following(piece) for piece in pieces], format="csr")

    def _detail(self, unit: float, part: int) -> float:
        """Mipmap level at which a texel of the part's texture has about the size of a pixel."""
        if part == heads.EYE:
            return max(math.log2(asset_files.EYE_TEXELS / (unit * self.size * OVERSAMPLING)), 0.0)
        shown = next((piece for piece in (*self.look.solid, *self.look.cards) if piece.part == part), None)
        bound = self.assets.body if shown is None else shown.bound
        if bound is None:
            return 0.0
        texels, length = bound.texels
        return max(math.log2(texels / (length * unit * self.size * OVERSAMPLING)), 0.0)

    def _following(self, piece: Piece) -> scipy.sparse.csr_matrix:
        """(m, V) weights of the base vertices that deform a piece."""
        if piece.bound is None:
            return scipy.sparse.csr_matrix((len(piece.rest), len(self.mesh.template)), dtype=np.float32)
        return piece.bound.follow[piece.bound.corner].astype(np.float32)

    def render(self, coefficients: np.ndarray, gaze: tuple[float, float] = (0.0, 0.0)) -> Frame:
        """Render the chosen person, as `Renderer.render`."""
        person, mesh = self._shown(), self.mesh
        values = with_lids(coefficients, gaze[1])
        moved = self.deformation(values)
        count = mesh.shell_start  # the long hair of drawn heads is not used
        position, turn = self.posed(person.skull[:count] + moved[:count], mesh.head_weight[:count], values)
        normal = heads.vertex_normals(position, self.without_hair[0], self.sums)
        pieces, _ = self.posed(self.piece_rest + self.follow @ moved, self.piece_weight, values)
        vertices = np.concatenate(
            [
                np.concatenate([position[self.base], pieces]),
                np.concatenate([normal[self.base], self.piece_normal @ turn.T.astype(np.float32)]),
            ],
            axis=1,
        )
        self.moving.write(vertices.astype("f4").tobytes())
        self._animate(coefficients, turn, gaze)
        self.surface_target.use()
        self.context.clear(depth=1.0)
        self.context.depth_func = "<"
        base, solid, cards = self.arrays
        self.context.enable(moderngl.CULL_FACE)
        base.render()
        if self.program["ajar"].value > 0:
            solid.render()
        self.context.disable(moderngl.CULL_FACE)
        cards.render()
        small, depth = self._shaded()
        shadow = self._shadows(depth)
        image = small[..., :3] * shadow + self.backdrop * (1 - small[..., 3:] / 255)
        points, visible = self._points(position, normal, depth)
        return Frame(
            np.clip(image + 0.5, 0, 255).astype(np.uint8), small[..., 3].astype(np.uint8), points, visible,
            self._landmarks(position, turn, gaze),
        )  # fmt: skip

    def mouth(self) -> tuple[np.ndarray, np.ndarray]:
        """What the last picture shows inside the lips: parts (2 S, 2 S) uint8, and coordinates (2 S, 2 S, 2) float32.

        Parts: 0 other, 1 upper teeth, 2 lower teeth, 3 tongue and the rest of the mouth. Coordinates: those of teeth,
        see `teeth.coordinates`, 0 elsewhere.
        """
        side = self.size * OVERSAMPLING
        template, normal, paint = (
            np.frombuffer(surface.read(), kind).reshape(side, side, 4)[::-1]
            for surface, kind in zip(self.surface, (np.float32, np.uint8, np.uint8), strict=False)
        )
        # normals are zero where nothing was drawn
        drawn = normal[..., 3] & 7
        parts = np.zeros((side, side), np.uint8)
        lining = (drawn == heads.SKIN) & (paint[..., 3] > INSIDE) & normal[..., :3].any(-1)
        parts[lining | (drawn == heads.TONGUE)] = 3
        rows, columns = np.nonzero(drawn == heads.TEETH)
        found = template[rows, columns]
        lower = found[:, 3] > 0.5
        parts[rows, columns] = np.where(lower, 2, 1)
        places = np.zeros((side, side, 2), np.float32)
        places[rows, columns] = teeth.coordinates(found[:, :3], lower)
        return parts, places

    def _shadows(self, depth: np.ndarray) -> np.ndarray:
        """(S, S, 3) factors of sRGB levels: ambient occlusion and cast shadows, from the depth buffer (2 S, 2 S)."""
        size = self.size
        near = cv2.resize(self._surface_depth(depth), (size, size), interpolation=cv2.INTER_AREA)
        dark = np.zeros_like(near)
        for radius, deep in zip(RADII, DEEP, strict=True):
            hidden = (cv2.blur(near, (2 * round(1.6 * radius * size) + 1,) * 2) - near) / deep
            dark += 0.5 * np.clip(hidden, 0.0, 1.0)
        key = np.asarray(self._shown().uniforms["key_direction"])
        flat = max(float(np.hypot(key[0], key[1])), 1e-3)
        cast = np.zeros_like(near)
        for step in range(1, STEPS + 1):
            away = REACH * step / STEPS
            x, y = -away * size * key[0] / flat, away * size * key[1] / flat
            matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
            above = cv2.warpAffine(near, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
            cast = np.maximum(cast, np.clip((above - near - away * key[2] / flat) / SOFT, 0.0, 1.0))
        cast = cv2.GaussianBlur(cast, (0, 0), max(0.008 * size, 0.6))
        factor = (1 - OCCLUSION * dark) * (1 - CAST * cast)
        logarithm = np.log(np.maximum(factor, 0.02)) / 2.2
        return np.exp(logarithm[..., None] * WARM)


def _in_front(bound: asset_files.Bound, mesh: heads.Mesh) -> asset_files.Bound:
    """Without the triangles that face away from the camera in every pose."""
    a, b, c = (mesh.template[bound.corner[bound.triangles[:, k]]] for k in range(3))
    facing = np.cross(b - a, c - a)
    return replace(bound, triangles=bound.triangles[facing[:, 2] > -0.65 * np.linalg.norm(facing, axis=1)])


def _normals(piece: Piece, unit: float) -> np.ndarray:
    """(m, 3) unit normals at rest."""
    corners = piece.triangles.ravel()
    sums = scipy.sparse.csr_matrix(
        (np.ones(len(corners), np.float32), (corners, np.arange(len(piece.triangles)).repeat(3))),
        (len(piece.rest), len(piece.triangles)),
    )
    return heads.vertex_normals(piece.rest, piece.triangles, sums).astype(np.float32)


def renderer_of(size: int, folder: Path | None) -> Renderer:
    """The renderer of a picture size: with the assets of `folder`, or without assets. See `assets.load` for errors."""
    return renderer(size) if folder is None else _lifelike(size, folder)


@lru_cache(maxsize=2)
def _lifelike(size: int, folder: Path) -> LifelikeRenderer:
    return LifelikeRenderer(size, folder)
