"""Lifelike heads, drawn with small generated assets in place of MakeHuman's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("moderngl", reason="moderngl draws the heads")

from inference.face.landmarks import INNER_LIPS
from training.heads import assets, dataset, render, teeth
from training.heads.lifelike_render import LifelikeRenderer, renderer_of
from training.units import NAMES

from .conftest import DRAWN as SIZE

PEOPLE = range(3, 7)
AXES = ("x_scale 5399 11998 1.4", "y_scale 791 881 2.3", "z_scale 962 5320 1.9")
# Base vertices of the scalp, a brow, an upper lid and the upper teeth.
PLACES = {"hair": (7669, 7672, 7018), "eyebrows": (6942, 6935, 6934), "eyelashes": (14742, 14743, 14744)}
PLACES |= {"teeth": (15006, 15010, 15041), "tongue": (13380, 13381, 13382)}


def write_mesh(folder: Path, name: str, base: tuple[int, int, int]) -> None:
    """A triangle that follows three vertices of the base mesh."""
    folder.mkdir(parents=True)
    rows = [" ".join(str(number) for number in (*base, *share, 0, 0, 0.01)) for share in np.eye(3)]
    (folder / f"{name}.mhclo").write_text("\n".join(["# bound", *AXES, "verts 0", "tag test", *rows]))
    corners = ["v 0 7 1", "v 1 7 1", "v 0 8 1", "vt 0 0", "vt 1 0", "vt 0 1", "f 1/1 2/2 3/3"]
    (folder / f"{name}.obj").write_text("\n".join(corners))


def write_assets(folder: Path, skin: np.ndarray) -> Path:
    """A folder of assets with one of each kind; skin: (h, w, 3) uint8."""
    plain = np.full((8, 8, 4), 200, np.uint8)
    for name in ("skins", "eyes/textures"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "skins" / "young_lightskinned_male_diffuse.png"), skin)
    cv2.imwrite(str(folder / "eyes/textures/brown_eye.png"), plain)
    for kind, base in PLACES.items():
        name = "short01" if kind == "hair" else kind
        write_mesh(folder / kind / name, name, base)
        cv2.imwrite(str(folder / kind / ("" if kind in ("teeth", "tongue") else name) / f"{name}.png"), plain)
    return folder


@pytest.fixture(scope="module")
def striped(drawer: render.Renderer, tmp_path_factory: pytest.TempPathFactory) -> LifelikeRenderer:
    """The renderer with stripes on its only skin."""
    skin = np.full((512, 512, 3), 200, np.uint8)
    skin[:, ::8] = skin[:, 1::8] = 20
    return LifelikeRenderer(SIZE, write_assets(tmp_path_factory.mktemp("assets"), skin))


def shot(drawer: render.Renderer, person: int, gaze: tuple[float, float] = (0.0, 0.0), **values: float) -> render.Frame:
    row = np.zeros(len(NAMES), np.float32)
    for name, value in values.items():
        row[NAMES.index(name)] = value
    with drawer.context:
        drawer.show(render.person(person))
        return drawer.render(row, gaze)


def test_ground_truth_is_that_of_the_drawn_heads(striped, drawer) -> None:
    face = slice(0, 500)  # mouth and eyes; hair has another thickness
    for person in PEOPLE:
        lifelike, drawn = (shot(each, person, jawOpen=0.5, headYaw=0.4) for each in (striped, drawer))
        assert np.allclose(lifelike.points[face].astype(float), drawn.points[face].astype(float), atol=1e-3)
        assert (lifelike.visible[face] == drawn.visible[face]).mean() > 0.8
        assert abs(lifelike.mask.mean() - drawn.mask.mean()) < 40


def test_the_skin_has_the_texture(striped, drawer) -> None:
    def detail(frame: render.Frame) -> float:
        cheeks = frame.image[SIZE // 2 : SIZE * 5 // 8, SIZE * 3 // 8 : SIZE * 5 // 8].astype(float)
        level = cheeks.mean(-1)
        return float(np.abs(np.diff(level, 2)).mean() / level.mean())

    textured, drawn = (np.mean([detail(shot(each, person)) for person in PEOPLE]) for each in (striped, drawer))
    assert textured > 2 * drawn


def test_same_person_same_picture(striped) -> None:
    first = shot(striped, 3, jawOpen=0.6).image
    other = shot(striped, 4, jawOpen=0.6).image
    assert np.array_equal(shot(striped, 3, jawOpen=0.6).image, first)
    assert not np.array_equal(other, first)


def test_gaze_moves_no_tracked_point_and_lids_follow(striped) -> None:
    ahead, aside, down = (shot(striped, 3, gaze) for gaze in ((0.0, 0.0), (0.3, 0.0), (0.0, -0.4)))
    assert np.array_equal(ahead.points, aside.points)
    assert (down.points[260:500, 1] - ahead.points[260:500, 1]).max() > 0.01


def test_the_mouth_is_found_where_lips_open(striped) -> None:
    shot(striped, 3)
    with striped.context:
        closed, _ = striped.mouth()
    frame = shot(striped, 3, jawOpen=0.8)
    with striped.context:
        parts, places = striped.mouth()
    assert (closed > 0).sum() < 0.1 * (parts > 0).sum()
    assert not places[parts == 0].any()
    rows, columns = ((side * 2 + 1) / (2 * SIZE) - 1 for side in np.nonzero(parts))
    lips = frame.landmarks[INNER_LIPS]
    middle = np.array([columns.mean(), rows.mean()])
    assert np.abs(middle - lips.mean(0)).max() < 0.05
    assert np.abs(columns - middle[0]).max() < 1.2 * np.ptp(lips[:, 0])


def test_coordinates_of_teeth_run_from_left_to_right_and_to_their_edges() -> None:
    at = np.array([[-0.2, 6.7, 1.4], [0.0, 6.7, 1.5], [0.2, 6.7, 1.4], [0.0, 6.65, 1.5]])
    upper, lower = (teeth.coordinates(at, np.full(4, row)) for row in (False, True))
    assert np.allclose(upper[:, 0], lower[:, 0])
    assert upper[1, 0] == 0
    assert upper[0, 0] == pytest.approx(-upper[2, 0])
    assert upper[2, 0] > 0.2
    assert upper[3, 1] > upper[1, 1], "down, to the edge of an upper tooth"
    assert lower[3, 1] < lower[1, 1], "down, to the gums of a lower tooth"


def test_data_set_says_that_it_is_lifelike(striped, drawer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "renderer_of", lambda size, folder: striped)
    dataset.render_dataset(tmp_path, identities=1, frames=4, size=SIZE, assets=Path("assets"))
    assert '"lifelike": true' in (tmp_path / "meta.json").read_text()
    with pytest.raises(SystemExit, match="another folder"):
        dataset.render_dataset(tmp_path, identities=1, frames=4, size=SIZE)


def test_missing_assets_are_named_in_one_sentence(drawer, tmp_path) -> None:
    folder = write_assets(tmp_path / "incomplete", np.zeros((4, 4, 3), np.uint8))
    (folder / "tongue" / "tongue.png").unlink()
    for file in (folder / "tongue" / "tongue").iterdir():
        file.unlink()
    (folder / "tongue" / "tongue").rmdir()
    with pytest.raises(FileNotFoundError, match=r"has no tongue\. Give the folder") as caught:
        assets.load(folder)
    assert str(folder) in str(caught.value)
    assert renderer_of(SIZE, None) is render.renderer(SIZE)
