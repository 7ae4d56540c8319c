"""The square over a portrait, and how dragging changes it."""

from __future__ import annotations

import numpy as np
import pytest
from edtalk.edtalk_blender.character.crop_square import SMALLEST, Dragging, Square

SQUARES = [Square(100, 50, 200), Square(100, 50, 200, 30), Square(-20, 10, 77.5, -120), Square(0, 0, 300, 90)]


def sides(corners):
    return np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)


@pytest.mark.parametrize("square", SQUARES)
def test_corners_form_a_square_with_its_side_and_centre(square):
    np.testing.assert_allclose(sides(square.corners), square.side)
    np.testing.assert_allclose(square.corners.mean(axis=0), square.centre)
    np.testing.assert_allclose(square.corners[2] - square.centre, square.centre - square.corners[0])


def test_a_positive_angle_turns_clockwise():
    """The corner at the top left moves up and to the right."""
    (x, y), (before_x, before_y) = Square(0, 0, 100, 10).corners[0], Square(0, 0, 100).corners[0]
    assert x > before_x
    assert y < before_y


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("corner", range(4))
def test_resizing_keeps_the_opposite_corner_and_follows_the_mouse(square, corner):
    opposite = (corner + 2) % 4
    target = square.corners[opposite] + 1.5 * (square.corners[corner] - square.corners[opposite])
    resized = square.resized(corner, target)
    np.testing.assert_allclose(resized.corners[opposite], square.corners[opposite], atol=1e-9)
    np.testing.assert_allclose(resized.corners[corner], target, atol=1e-9)
    assert resized.side == pytest.approx(1.5 * square.side)
    assert resized.angle == square.angle
    behind = square.corners[opposite] - (square.corners[corner] - square.corners[opposite])
    assert square.resized(corner, behind).side == SMALLEST


@pytest.mark.parametrize("square", SQUARES)
def test_rotating_points_the_handle_at_the_mouse(square):
    target = square.centre + np.array([60, -35])
    rotated = square.rotated(target)
    np.testing.assert_allclose(rotated.centre, square.centre)
    along, towards = rotated.handle - rotated.centre, target - square.centre
    np.testing.assert_allclose(along / np.linalg.norm(along), towards / np.linalg.norm(towards), atol=1e-9)
    assert square.rotated(square.centre + np.array([1, -100])).angle == 0


@pytest.mark.parametrize("square", [*SQUARES, Square(-900, 5000, 1e6, 45), Square(10, 10, 0.5)])
def test_a_square_kept_inside_can_be_used_and_seen(square):
    kept = square.kept_inside(640, 480)
    assert (kept.centre >= 0).all()
    assert (kept.centre <= (640, 480)).all()
    assert SMALLEST <= kept.side <= 1280
    again = kept.kept_inside(640, 480)
    np.testing.assert_allclose([again.x, again.y, again.side], [kept.x, kept.y, kept.side])


def dragging(square, zoom=1.0):
    return Dragging(square, (640, 480), lambda points: zoom * points, 10)


def test_dragging_inside_moves_the_square_and_its_size_stays():
    drag = dragging(Square(100, 100, 200, 20))
    assert drag.grab(np.array([210.0, 190.0]))
    for _ in range(4):
        drag.drag(np.array([210.0, 190.0]) + 5 * (_ + 1))
    drag.release()
    drag.drag(np.array([0.0, 0.0]))
    assert drag.square == Square(120, 120, 200, 20)


@pytest.mark.parametrize("corner", range(4))
def test_a_corner_is_grabbed_within_reach_on_the_screen(corner):
    square = Square(100, 100, 200, 20)
    near = square.corners[corner] + np.array([4, -4])
    assert dragging(square, 1).part_at(near) == str(corner)
    assert dragging(square, 5).part_at(near) != str(corner), "28 pixels away on the screen"


def test_nothing_is_grabbed_outside():
    drag = dragging(Square(100, 100, 200))
    assert not drag.grab(np.array([500.0, 400.0]))
    drag.drag(np.array([0.0, 0.0]))
    assert drag.square == Square(100, 100, 200)


def test_the_arrow_keys_stop_at_the_border():
    drag = dragging(Square(100, 100, 200))
    drag.nudge(-10, 1)
    assert drag.square == Square(90, 101, 200)
    for _ in range(100):
        drag.nudge(-10, 0)
    assert drag.square.centre[0] == 0
