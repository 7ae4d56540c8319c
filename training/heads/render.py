"""Renders a synthetic person with given coefficients, together with ground truth (OpenGL through EGL)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import cv2
import moderngl
import numpy as np
from scipy.ndimage import gaussian_filter

from training.heads import mesh as heads
from training.heads.identity import Identity, identity
from training.heads.marks import landmarks, lip_outline
from training.heads.shaders import OUTLINE, SHADE, SURFACE, SURFACE_VERTEX, WHOLE_PICTURE
from training.units import LIP, NAMES, POSE, SCALE, SHIFT, UNITS

OVERSAMPLING = 2
SURFACES = ("surface_template", "surface_normal", "surface_paint")
NOTHING, EVERYTHING = (False,) * 4, (True,) * 4
YAW, PITCH, ROLL = np.radians((30.0, 20.0, 20.0))
SHOULDERS_FOLLOW = 0.5  # share of the head's shift and scale that applies to the shoulders
DEPTH_TOLERANCE = 0.012  # picture widths by which a visible point may lie below the surface
# The upper lid follows the gaze: change of eyeBlink per radian down, and of eyeWide per radian up.
LID_DOWN, LID_UP = 0.8, 0.7


@dataclass(frozen=True)
class Frame:
    """One rendered picture of side S and its ground truth; P = 1024 points in `mesh.POINT_GROUPS` order."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    mask: np.ndarray  # (S, S) uint8 coverage by the person
    points: np.ndarray  # (P, 2) float16, x right and y down, -1 .. 1 from edge to edge
    visible: np.ndarray  # (P,) bool
    landmarks: np.ndarray  # (L, 2) float32 in the same units, in the order of `inference.face.landmarks.NAMES`


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) head rotation from angles in radians with the signs of `training.units`."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def with_lids(coefficients: np.ndarray, up: float) -> np.ndarray:
    """Coefficients (36,) whose upper lids follow a gaze `up` radians above the camera."""
    if up == 0.0:
        return coefficients
    values, (blink, wide) = np.array(coefficients, np.float32), (NAMES.index(name) for name in ("eyeBlink", "eyeWide"))
    values[blink] += LID_DOWN * max(-up, 0.0) * max(1.0 - values[blink], 0.0)
    values[wide] += LID_UP * max(up, 0.0) * max(1.0 - values[blink], 0.0)
    return values


def noise_cells() -> np.ndarray:
    """(64, 64, 64, 4) uint8 tileable noise: patches, grain, sparse spots, clumps."""
    rng = np.random.default_rng(7)

    def blurred(sigma: float) -> np.ndarray:
        field = gaussian_filter(rng.normal(size=(64, 64, 64)), sigma, mode="wrap")
        return field / field.std()

    grain = rng.random((64, 64, 64))
    patches, clumps = 0.2 * blurred(1.8) + 0.1 * blurred(0.7) + 0.5, 0.22 * blurred(0.8) + 0.5
    spots = heads.smoothstep(1.6, 2.6, blurred(0.45))
    return (np.clip(np.stack([patches, grain, spots, clumps], -1), 0, 1) * 255).astype(np.uint8)


class Renderer:
    """Renders pictures of one person at a time. Call its methods inside `with renderer.context`.

    size: pixels of a picture's side. The constructor compiles shaders, so reuse the object (see `renderer`).
    """

    def __init__(self, size: int) -> None:
        self.size, self.mesh = size, heads.load()
        self.tolerance = np.full(len(self.mesh.points), DEPTH_TOLERANCE)
        # Without a GPU, Mesa renders in threads, which wait for each other if training uses the cores: one is faster.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        self.context = moderngl.create_standalone_context(backend="egl", require=330)
        self.context.enable(moderngl.DEPTH_TEST)
        side = size * OVERSAMPLING
        self.depth = self.context.depth_texture((side, side))
        self.surface = [self.context.texture((side, side), 4, dtype="f4") for _ in SURFACES]
        self.surface_target = self.context.framebuffer(self.surface, self.depth)
        self.colour = self.context.texture((side, side), 4)
        self.target = self.context.framebuffer([self.colour], self.depth)
        self.target.depth_mask = False
        count = len(self.mesh.template)
        self.moving = self.context.buffer(reserve=count * 24, dynamic=True)
        self.still = self.context.buffer(reserve=count * 36)
        self.drawing = self.context.program(vertex_shader=SURFACE_VERTEX, fragment_shader=SURFACE)
        layout = [
            (self.moving, "3f 3f", "position", "normal"),
            (self.still, "3f 4f 2f", "template_position", "paint", "cavity_part"),
        ]
        # Back faces are visible on lashes and long hair only; the other surfaces are closed.
        thin = np.isin(self.mesh.part[self.mesh.triangles[:, 0]], (heads.LASH, heads.HAIR))
        self.solid, self.thin = (self._object(layout, self.mesh.triangles[which]) for which in (~thin, thin))
        count = len(self.mesh.triangles) - self.mesh.shell_triangles
        self.without_hair = self.mesh.triangles[:count], self.mesh.normal_sum[:, :count]  # mesh without long hair
        self.lashes = 3 * (int(thin.sum()) - self.mesh.shell_triangles)
        self.program = self.context.program(vertex_shader=WHOLE_PICTURE, fragment_shader=SHADE)
        self.picture = self.context.vertex_array(self.program, [])
        for unit, (name, texture) in enumerate(zip(SURFACES, self.surface, strict=True), 1):
            texture.use(unit)
            self.program[name].value = unit
        self.noise = self.context.texture3d((64, 64, 64), 4, noise_cells().tobytes())
        self.noise.filter = (moderngl.LINEAR, moderngl.LINEAR)
        self.noise.use(0)
        self.cavity = self._cavities()
        self.person: Identity | None = None

    def _object(self, layout: list, triangles: np.ndarray) -> moderngl.VertexArray:
        return self.context.vertex_array(
            self.drawing, layout, self.context.buffer(triangles.tobytes()), index_element_size=4
        )

    def _cavities(self, directions: int = 80) -> np.ndarray:
        """(V,) ambient occlusion of the average head, 0 (occluded) to 1, from depth maps of many directions."""
        mesh, side = self.mesh, 256
        position = mesh.template[: mesh.shell_start] - np.array([0, 7.0, 0.5], np.float32)
        faces = mesh.triangles[: len(mesh.triangles) - mesh.shell_triangles]
        normal = heads.vertex_normals(mesh.template, mesh.triangles, mesh.normal_sum)[: mesh.shell_start]
        program = self.context.program(vertex_shader=OUTLINE, fragment_shader="#version 330\nvoid main() {}")
        depth = self.context.depth_texture((side, side))
        target = self.context.framebuffer(depth_attachment=depth)
        array = self.context.vertex_array(
            program,
            [(self.context.buffer(position.astype("f4").tobytes()), "3f", "position")],
            self.context.buffer(faces.tobytes()),
            index_element_size=4,
        )
        target.use()
        lit, total = np.zeros(len(position)), np.full(len(position), 1e-6)
        for k in range(directions):
            height, turn = 1 - 2 * (k + 0.5) / directions, k * np.pi * (3 - np.sqrt(5))
            ring = np.sqrt(1 - height * height)
            forward = np.array([ring * np.cos(turn), height, ring * np.sin(turn)])
            right = np.cross(forward, [0.31, 0.2, 0.93])
            right /= np.linalg.norm(right)
            matrix = np.eye(4)
            matrix[:3, :3] = np.stack([right, np.cross(forward, right), -forward]) / 3.6
            program["camera"].write(matrix.T.astype("f4").tobytes())
            target.clear(depth=1.0)
            array.render()
            buffer = np.frombuffer(target.read(attachment=-1, components=1, dtype="f4"), np.float32).reshape(side, side)
            at = position @ matrix[:3, :3].T
            column, row = (np.clip(((at[:, i] + 1) / 2 * side).astype(int), 0, side - 1) for i in (0, 1))
            free = (at[:, 2] + 1) / 2 <= buffer[row, column] + 0.006
            cosine = np.maximum(normal @ forward, 0)
            lit += free * cosine
            total += cosine
        result = np.ones(len(mesh.template), np.float32)
        result[: mesh.shell_start] = lit / total
        # The number of directions is small, so noise is reduced by averaging over each vertex's triangles.
        corners = mesh.triangles
        for _ in range(2):
            mean = mesh.normal_sum @ result[corners].mean(axis=1)
            result = (mean / np.maximum(mesh.normal_sum @ np.ones(len(corners), np.float32), 1)).astype(np.float32)
        return result

    def show(self, person: Identity) -> None:
        """Choose the person that `render` draws."""
        self.person, mesh = person, self.mesh
        self.outline = lip_outline(person.paint[:, 2])
        self.backdrop = cv2.resize(person.backdrop, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        local = np.pad(person.local, ((0, 0), (0, 1)))
        paint = np.where(mesh.part[:, None] == heads.SKIN, person.paint, local)
        columns = (mesh.template, paint, self.cavity[:, None], mesh.part[:, None])
        self.still.write(np.concatenate(columns, axis=1).astype("f4").tobytes())
        for name, value in person.uniforms.items():
            if name in self.program:
                self.program[name].value = tuple(np.atleast_1d(value)) if np.ndim(value) else float(value)
        # With an off-axis projection, a face outside the centre of the picture is still seen from the front.
        near, far, d = person.distance - 1.2, person.distance + 3.0, person.distance
        middle = (2 * person.centre[0] - 1, 1 - 2 * person.centre[1])
        self.projection = np.array(
            [
                [2 * d, 0, -middle[0], middle[0] * d],
                [0, 2 * d, -middle[1], middle[1] * d],
                [0, 0, -(far + near) / (far - near), (d * (far + near) - 2 * far * near) / (far - near)],
                [0, 0, -1, d],
            ]
        )
        self.drawing["camera"].write(self.projection.T.astype("f4").tobytes())
        self.program["eye_ray"].value = (*middle, 0.5 / d)

    def _shown(self) -> Identity:
        if self.person is None:
            raise RuntimeError("Call show(person) first.")
        return self.person

    def positions(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V, 3) posed vertices in picture widths from the eyes' midpoint at rest, and the (3, 3) head rotation."""
        person = self._shown()
        weight = self.mesh.head_weight if not person.shell else self._shell_weight()
        return self.posed(person.rest + self.deformation(coefficients), weight, coefficients)

    def deformation(self, coefficients: np.ndarray) -> np.ndarray:
        """(V, 3) displacement by lips and expression, in picture widths."""
        lip, _, exp = np.split(np.asarray(coefficients, np.float32), [len(LIP), len(LIP) + len(POSE)])
        amounts, units = np.concatenate([lip, exp]), self.mesh.units
        delta = np.zeros_like(units[0])
        for unit in np.flatnonzero(amounts):  # most are 0, and a matrix product would wait for BLAS's threads
            delta += amounts[unit] * units[unit]
        return delta.reshape(-1, 3) * np.float32(self._shown().unit)

    def posed(self, shaped: np.ndarray, weight: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (n, 3) moved by the pose of coefficients (36,), and the (3, 3) head rotation.

        weight: (n, 1), 1 for vertices that move with the head, 0 for those that move with the shoulders.
        """
        person, pose = self._shown(), np.asarray(coefficients, np.float32)[len(LIP) : len(LIP) + len(POSE)]
        yaw, pitch, roll, shift_x, shift_y, scale = pose.astype(np.float64)
        turn = rotation(yaw * YAW, pitch * PITCH, roll * ROLL)
        growth, move = 1 + SCALE * scale, SHIFT * np.array([shift_x, -shift_y, 0.0])
        # scaled about the centre of the face, rotated about the top of the neck
        centre = np.array([0.0, -0.12, 0.0])
        matrix = (turn * growth).astype(np.float32)
        offset = centre + growth * (person.pivot - centre) - matrix @ person.pivot + move
        head = shaped @ matrix.T + offset.astype(np.float32)
        body_growth = 1 + SCALE * scale * SHOULDERS_FOLLOW
        body = (shaped - centre) * body_growth + centre + SHOULDERS_FOLLOW * move
        return (body + weight * (head - body)).astype(np.float32), turn

    def _shell_weight(self) -> np.ndarray:
        """(V, 1) share by which a vertex moves with the head. Hair on the shoulders moves with the shoulders."""
        weight = self.mesh.head_weight.copy()
        start = self.mesh.shell_start
        low = self._shown().rest[start:, 1]
        weight[start:, 0] = heads.smoothstep(-0.75, -0.2, low)
        return weight

    def render(self, coefficients: np.ndarray, gaze: tuple[float, float] = (0.0, 0.0)) -> Frame:
        """Render the chosen person with coefficients (36,) in the order of `training.units.UNITS`.

        gaze: radians by which the eyes turn to the picture's right and up, added to their gaze at the camera. The upper
        lid follows. Raises RuntimeError before `show`.
        """
        person, mesh = self._shown(), self.mesh
        position, turn = self.positions(with_lids(coefficients, gaze[1]))
        surface = (mesh.triangles, mesh.normal_sum) if person.shell else self.without_hair
        normal = heads.vertex_normals(position, *surface)
        self.moving.write(np.concatenate([position, normal], axis=1).astype("f4").tobytes())
        self._animate(coefficients, turn, gaze)
        self.surface_target.use()
        self.surface_target.color_mask = (NOTHING,) * len(SURFACES)  # old contents are ignored where nothing is drawn
        self.context.clear(depth=1.0)
        self.surface_target.color_mask = (EVERYTHING,) * len(SURFACES)
        self.context.depth_func = "<"
        self.context.enable(moderngl.CULL_FACE)
        self.solid.render()
        self.context.disable(moderngl.CULL_FACE)
        self.thin.render(vertices=-1 if person.shell else self.lashes)
        small, depth = self._shaded()
        image = small[..., :3] + self.backdrop * (1 - small[..., 3:] / 255)
        points, visible = self._points(position, normal, depth)
        marks = self._landmarks(position, turn, gaze)
        return Frame(
            np.clip(image + 0.5, 0, 255).astype(np.uint8), small[..., 3].astype(np.uint8), points, visible, marks
        )

    def _animate(self, coefficients: np.ndarray, turn: np.ndarray, gaze: tuple[float, float]) -> None:
        """Set the shader's uniforms that depend on the frame."""
        lips = dict(zip(NAMES, np.asarray(coefficients, np.float64), strict=True))
        parts = ("mouthUpperUp", "mouthLowerDown", "mouthFunnel", "mouthStretch", "mouthRollLower", "mouthRollUpper")
        ajar = 2 * (lips["jawOpen"] - lips["mouthClose"]) + sum(lips[name] for name in parts)
        self.program["ajar"].value = float(np.clip(ajar / 0.4, 0, 1))
        self.program["tongue"].value = lips["tongueOut"]
        self.program["gaze"].value = tuple(self._gaze(turn, gaze))

    def _shaded(self) -> tuple[np.ndarray, np.ndarray]:
        """The shaded picture of the surfaces that were drawn, (S, S, 4) float32, and their depth, see `_read`."""
        self.target.use()
        self.target.clear(0.0, 0.0, 0.0, 0.0)
        self.context.depth_func = ">"  # wherever a surface was drawn
        self.picture.render(moderngl.TRIANGLES, vertices=3)
        pixels, depth = self._read()
        return cv2.resize(pixels, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(np.float32), depth

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture that was drawn, (2 S, 2 S, 4) uint8, and its depth buffer (2 S, 2 S), from the top."""
        side = self.size * OVERSAMPLING
        pixels = np.frombuffer(self.target.read(components=4), np.uint8).reshape(side, side, 4)[::-1]
        depth = np.frombuffer(self.target.read(attachment=-1, components=1, dtype="f4"), np.float32)
        return pixels, depth.reshape(side, side)[::-1]

    def _surface_depth(self, stored: np.ndarray) -> np.ndarray:
        """Depth buffer values 0..1 -> z in picture widths; inverts the projection: stored = (a z + b) / (d - z)."""
        (a, b), d = self.projection[2, 2:], self._shown().distance
        clip = stored * np.float32(2) - np.float32(1)
        return (clip * np.float32(d) - np.float32(b)) / (clip + np.float32(a))

    def _gaze(self, turn: np.ndarray, away: tuple[float, float]) -> np.ndarray:
        """(3,) unit direction of the gaze in the head's axes: towards the camera, limited to what eyes can turn.

        away: radians to the picture's right and up that are added.
        """
        camera = turn.T @ [0, 0, 1]
        right, up = np.arctan2(camera[0], camera[2]), np.arcsin(np.clip(camera[1], -1, 1))
        limit = np.radians(20)
        gaze = self._shown().gaze + away
        right, up = limit * np.tanh(0.8 * right / limit) + gaze[0], 0.4 * up + gaze[1]
        return np.array([np.sin(right) * np.cos(up), np.sin(up), np.cos(right) * np.cos(up)])

    def _landmarks(self, position: np.ndarray, turn: np.ndarray, gaze: tuple[float, float]) -> np.ndarray:
        """(L, 2) float32, see `Frame`, of the posed vertices of the base mesh."""
        found = landmarks(position, self.mesh, turn @ self._gaze(turn, gaze), self.outline)
        return self._projected(found).astype(np.float32)

    def _projected(self, at: np.ndarray) -> np.ndarray:
        """(n, 2) places in the picture, from -1 to 1, of points (n, 3)."""
        clip = np.concatenate([at, np.ones((len(at), 1))], axis=1) @ self.projection.T
        return clip[:, :2] / clip[:, 3:] * [1, -1]

    def _points(self, position: np.ndarray, normal: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tracked points (P, 2) in the picture and their visibility (P,), from the depth buffer (S, S)."""
        person, side = self._shown(), len(depth)
        at, facing = position[self.mesh.points], normal[self.mesh.points]
        screen = self._projected(at)
        column, row = (np.floor((screen[:, i] + 1) / 2 * side).astype(int) for i in (0, 1))
        inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
        surface = self._surface_depth(depth[np.clip(row, 0, side - 1), np.clip(column, 0, side - 1)])
        towards = np.array([0, 0, person.distance]) - at
        front = (facing * towards).sum(axis=1) > 0.05 * np.linalg.norm(towards, axis=1)
        visible = inside & front & (at[:, 2] > surface - self.tolerance)
        return screen.astype(np.float16), visible


@lru_cache(maxsize=2)
def renderer(size: int) -> Renderer:
    """The renderer of a picture size."""
    return Renderer(size)


def frame(
    index: int, coefficients: np.ndarray, size: int, seed: int = 0, gaze: tuple[float, float] = (0.0, 0.0)
) -> Frame:
    """Render person `index` with coefficients (36,). size: 64 or more pixels. gaze: see `Renderer.render`."""
    drawer = renderer(size)
    with drawer.context:  # each size has an OpenGL context of its own
        drawer.show(person(index, seed))
        return drawer.render(coefficients, gaze)


@lru_cache(maxsize=8)
def person(index: int, seed: int = 0) -> Identity:
    """`identity`, with the last eight people cached."""
    return identity(index, seed)


def portrait(index: int, size: int = 512) -> np.ndarray:
    """(size, size, 3) uint8 RGB of person `index` at rest."""
    return frame(index, np.zeros(len(UNITS), np.float32), size).image
