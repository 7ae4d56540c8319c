"""Importing ARKit captures: the frames, values and sliders of the keyframes, and errors."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest

UNITS = ("JawOpen", "MouthSmileLeft", "MouthSmileRight", "EyeBlinkLeft", "EyeBlinkRight", "BrowInnerUp")
ANGLES = ("HeadYaw", "HeadPitch", "HeadRoll")


@pytest.fixture
def write_take(tmp_path):
    """Writes a take in the format of Live Link Face at 60 rows per second. Columns are functions of the second."""

    def write(seconds: float = 2.0, first: int = 0, gap=(), **curves) -> str:
        lines = [",".join(("Timecode", "BlendShapeCount", *UNITS, *ANGLES))]
        for index in range(round(seconds * 60) + 1):
            whole, frame = divmod(first + index, 60)
            clock = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}:{frame:02}.000"
            values = [curves.get(name, lambda _second: 0.0)(index / 60) for name in (*UNITS, *ANGLES)]
            if index not in gap:
                lines.append(",".join((clock, "61", *(f"{value:.10f}" for value in values))))
        path = tmp_path / "take.csv"
        path.write_text("\n".join(lines))
        return str(path)

    return write


@pytest.fixture
def load(obj):
    """Imports a take to the character."""

    def load(path: str, **options) -> set[str]:
        return bpy.ops.edtalk.import_arkit(filepath=path, **({"simplify": 0.0} | options))

    return load


def curves_of(package, obj) -> dict[str, bpy.types.FCurve]:
    return {curve.data_path.split('"')[1]: curve for curve in package.compat.fcurves(obj)}


def keys(curve) -> np.ndarray:
    """(K, 2) frames and values."""
    found = np.empty(2 * len(curve.keyframe_points), np.float32)
    curve.keyframe_points.foreach_get("co", found)
    return found.reshape(-1, 2)


def wave(second: float) -> float:
    return 0.5 + 0.5 * math.sin(3 * second)


@pytest.mark.parametrize(("fps", "base"), [(24, 1.0), (24, 1.001), (25, 1.0), (30, 1.0), (60, 1.0)])
def test_a_take_keeps_its_timing_at_any_frame_rate(package, obj, scene, write_take, load, fps, base):
    scene.render.fps, scene.render.fps_base = fps, base
    load(write_take(JawOpen=wave), start=11)
    at = keys(curves_of(package, obj)["jawOpen"])
    np.testing.assert_array_equal(at[:, 0], np.arange(11, 11 + int(2 * fps / base) + 1))
    np.testing.assert_allclose(at[:, 1], [wave((frame - 11) * base / fps) for frame in at[:, 0]], atol=1e-3)


def test_only_sliders_of_the_takes_columns_are_keyed(package, obj, write_take, load):
    path = write_take(
        JawOpen=wave, MouthSmileLeft=lambda _: 0.2, MouthSmileRight=lambda _: 0.6, HeadYaw=lambda s: -s / 4
    )
    assert load(path, head="RECORDED") == {"FINISHED"}
    found = curves_of(package, obj)
    assert set(found) == {"jawOpen", "mouthSmile", "eyeBlink", "browInnerUp", "headYaw", "headPitch", "headRoll"}
    np.testing.assert_allclose(keys(found["mouthSmile"])[:, 1], 0.4, atol=1e-6)
    yaw = keys(found["headYaw"])
    np.testing.assert_allclose(yaw[:, 1], np.degrees((yaw[:, 0] - 1) / 24 / 4) / 30, atol=1e-4)
    assert {curve.group.name for curve in found.values()} == {"Mouth", "Head", "Expression"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mouth": False}, {"eyeBlink", "browInnerUp", "mouthSmile", "headYaw", "headPitch", "headRoll"}),
        ({"expression": False, "head": "NONE"}, {"jawOpen"}),
        ({"mouth": False, "expression": False}, {"headYaw", "headPitch", "headRoll"}),
    ],
)
def test_parts_of_the_face_can_be_disabled(package, obj, write_take, load, options, expected):
    load(write_take(JawOpen=wave, HeadYaw=wave), **options)
    assert set(curves_of(package, obj)) == expected


def test_motion_is_added_to_the_portraits_rest_pose(package, obj, write_take, load):
    package.character.sliders.setup_channels(obj, {"jawOpen": 0.25, "headYaw": -0.5})
    path = write_take(JawOpen=lambda s: s / 4, HeadYaw=lambda _: 0.3)
    load(path, strength=2.0)
    jaw = keys(curves_of(package, obj)["jawOpen"])
    np.testing.assert_allclose(jaw[:, 1], 0.25 + (jaw[:, 0] - 1) / 24 / 2, atol=1e-5)
    np.testing.assert_allclose(keys(curves_of(package, obj)["headYaw"])[:, 1], -0.5, atol=1e-6)
    load(path, from_rest=False)
    np.testing.assert_allclose(keys(curves_of(package, obj)["jawOpen"])[:, 1], (jaw[:, 0] - 1) / 24 / 4, atol=1e-5)


def test_takes_are_placed_by_timecode(package, obj, scene, write_take, load):
    """A take that starts between two scene frames is sampled at scene frames."""
    path = write_take(first=60 * 36_000 + 90, JawOpen=lambda s: s / 4)  # 10:00:01:30, with 24 fps frame 36 after ten
    load(path, start=101, use_timecode=True, timecode="10:00:00:00")
    at = keys(curves_of(package, obj)["jawOpen"])
    np.testing.assert_array_equal(at[[0, -1], 0], [137, 137 + 48])
    load(
        write_take(first=60 * 36_000 + 91, JawOpen=lambda s: s / 4),
        start=1001,
        use_timecode=True,
        timecode="10:00:00:00",
    )
    at = keys(curves_of(package, obj)["jawOpen"])
    at = at[at[:, 0] > 500]
    np.testing.assert_array_equal(at[[0, -1], 0], [1038, 1001 + 36 + 48])
    np.testing.assert_allclose(at[:, 1], ((at[:, 0] - 1001) / 24 - 91 / 60) / 4, atol=1e-4)


def test_missing_rows_are_interpolated(package, obj, write_take, load):
    load(write_take(gap=range(30, 61), JawOpen=lambda s: s / 4))
    at = keys(curves_of(package, obj)["jawOpen"])
    np.testing.assert_allclose(at[:, 1], (at[:, 0] - 1) / 24 / 4, atol=1e-4)
    assert len(at) == 49


def test_simplified_curves_stay_within_the_tolerance(package, obj, write_take, load):
    path = write_take(JawOpen=wave)
    load(path)
    exact = keys(curves_of(package, obj)["jawOpen"])
    load(path, simplify=0.02)
    curve = curves_of(package, obj)["jawOpen"]
    assert len(curve.keyframe_points) < len(exact) / 3
    np.testing.assert_allclose([curve.evaluate(frame) for frame in exact[:, 0]], exact[:, 1], atol=0.0201)
    assert len(curves_of(package, obj)["browInnerUp"].keyframe_points) == 2


def test_only_the_takes_own_frames_are_replaced(package, obj, write_take, load):
    package.animation.keys.write_curves(obj, {"jawOpen": np.full(101, 9.0)}, np.arange(1, 102))
    load(write_take(JawOpen=wave), start=31)
    at = keys(curves_of(package, obj)["jawOpen"])
    assert np.array_equal(at[:, 0], np.arange(1, 102))
    assert (at[:, 1] == 9).sum() == 101 - 49


def test_a_plain_table_of_ten_minutes_is_imported(package, obj, tmp_path, load):
    rows = 36_000
    names = (*UNITS, *ANGLES)
    values = np.random.default_rng(0).uniform(0, 1, (rows, len(names)))
    lines = [",".join(names), *(",".join(f"{value:.4f}" for value in row) for row in values)]
    (tmp_path / "long.csv").write_text("\n".join(lines))
    load(str(tmp_path / "long.csv"))
    assert len(curves_of(package, obj)["jawOpen"].keyframe_points) == 14_400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filepath": "nowhere.csv"}, "does not exist"),
        ({"mouth": False, "expression": False, "head": "NONE"}, "no motion for the enabled parts"),
        ({"use_timecode": True, "timecode": "noon"}, "is not a valid timecode"),
        ({"use_timecode": True, "timecode": "00:00:00:00", "start": 1_000_000}, "beyond Blender's frame range"),
    ],
)
def test_unusable_captures_write_no_keys(package, obj, write_take, load, options, message):
    path = options.pop("filepath", None) or write_take(first=60 * 36_000, JawOpen=wave)
    with pytest.raises(RuntimeError, match=message):
        load(path, **options)
    assert package.compat.fcurves(obj) == []


def test_a_bank_without_arkit_mapping_is_an_error(package, obj, write_bank, write_take, load):
    bank = write_bank(banks={"lip": ("lip_01",), "pose": ("pose_01",), "exp": ("exp_01", "exp_02")})
    package.character.character.set_bank(obj, str(bank))
    with pytest.raises(RuntimeError, match="has no ARKit mapping"):
        load(write_take())


def test_an_import_is_one_undo_step(package, obj, scene, write_take, load):
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.import_arkit("EXEC_DEFAULT", True, filepath=write_take(JawOpen=wave))
    assert package.compat.fcurves(bpy.data.objects["Anna"])
    bpy.ops.ed.undo()
    assert package.compat.fcurves(bpy.data.objects["Anna"]) == []
