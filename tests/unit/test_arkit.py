"""ARKit recordings: the file formats of apps, timecode, invalid files, and conversion to and from banks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edtalk.edtalk_blender.capture.arkit_csv import Rate, read_take, timecode_seconds
from edtalk.edtalk_blender.character import arkit as character_arkit
from edtalk.inference.contract import arkit
from edtalk.inference.contract.bank import STARTER, Coefficient, read_bank
from edtalk.inference.contract.errors import EDTalkError

HEADER = (
    "EyeBlinkLeft EyeLookDownLeft EyeLookInLeft EyeLookOutLeft EyeLookUpLeft EyeSquintLeft EyeWideLeft EyeBlinkRight "
    "EyeLookDownRight EyeLookInRight EyeLookOutRight EyeLookUpRight EyeSquintRight EyeWideRight JawForward JawRight "
    "JawLeft JawOpen MouthClose MouthFunnel MouthPucker MouthRight MouthLeft MouthSmileLeft MouthSmileRight "
    "MouthFrownLeft MouthFrownRight MouthDimpleLeft MouthDimpleRight MouthStretchLeft MouthStretchRight "
    "MouthRollLower MouthRollUpper MouthShrugLower MouthShrugUpper MouthPressLeft MouthPressRight MouthLowerDownLeft "
    "MouthLowerDownRight MouthUpperUpLeft MouthUpperUpRight BrowDownLeft BrowDownRight BrowInnerUp BrowOuterUpLeft "
    "BrowOuterUpRight CheekPuff CheekSquintLeft CheekSquintRight NoseSneerLeft NoseSneerRight TongueOut HeadYaw "
    "HeadPitch HeadRoll LeftEyeYaw LeftEyePitch LeftEyeRoll RightEyeYaw RightEyePitch RightEyeRoll"
)
LIVE_LINK = HEADER.split()
FACE = LIVE_LINK[:52]


def recorded(rows: int = 200, seed: int = 3) -> np.ndarray:
    """(rows, 61) smooth values as recorded by a phone: units 0 to 1, angles in radians."""
    random = np.random.default_rng(seed)
    phase, speed = random.uniform(0, 6, 61), random.uniform(0.5, 3, 61)
    values = 0.5 + 0.5 * np.sin(np.arange(rows)[:, None] / 30 * speed + phase)
    values[:, 52:] = (values[:, 52:] - 0.5) * 0.8
    return values.round(10)


def timecodes(rows: int, rate: int = 60, every: float = 1.0, first: float = 0.0, sub: bool = True) -> list[str]:
    """Timecodes of rows `every` frames apart. first: frames since midnight."""
    codes = []
    for index in range(rows):
        frames = (first + every * index) % (rate * 86400)
        whole = int(frames)
        seconds, frame = divmod(whole, rate)
        text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frame:02}"
        codes.append(text + (f".{int((frames - whole) * 1000):03}" if sub else ""))
    return codes


@pytest.fixture
def write(tmp_path):
    def write(columns: dict[str, list], delimiter: str = ",", name: str = "take.csv", encoding: str = "utf-8"):
        rows = zip(*([str(cell) for cell in column] for column in columns.values()), strict=True)
        lines = [delimiter.join(columns), *(delimiter.join(row) for row in rows)]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


def live_link(values: np.ndarray, codes: list[str]) -> dict[str, list]:
    columns = {"Timecode": codes, "BlendShapeCount": [61] * len(values)}
    return columns | {name: column.tolist() for name, column in zip(LIVE_LINK, values.T, strict=True)}


def test_all_52_arkit_names_are_read():
    assert len(arkit.FACE) == len(set(arkit.FACE)) == 52
    assert {name.lower() for name in FACE} == {name.lower() for name in arkit.FACE}


def test_rows_that_end_before_the_time_are_left_out(tmp_path):
    path = tmp_path / "take.csv"
    path.write_text("JawOpen,Time\n0.1,0\n0.2,0.5\n0.3\n")
    take = read_take(path)
    assert (take.times.tolist(), take.skipped) == ([0.0, 0.5], 1)


# --- Ways of writing the same


def test_live_link_face_round_trip(write):
    values = recorded()
    path = write(live_link(values, timecodes(200, first=60 * 36_000 + 7.25)))
    take = read_take(path)
    assert take.names == (*(arkit_name(name) for name in FACE), *arkit.HEAD)
    np.testing.assert_array_equal(take.values[:, :52], values[:, :52])
    np.testing.assert_allclose(take.times, np.arange(200) / 60, atol=1e-3 / 60)
    assert take.rate == Rate(60, 60.0)
    assert take.start == pytest.approx(36_000 + 7.25 / 60)
    assert take.skipped == 0


def arkit_name(text: str) -> str:
    return text[0].lower() + text[1:]


def test_head_rotation_in_degrees(write):
    values = np.zeros((3, 61))
    values[:, 52:55] = (0.3, 0.2, -0.1)  # to the person's right, which is the picture's left; down; anticlockwise
    take = read_take(write(live_link(values, timecodes(3))))
    head = dict(zip(take.names, take.values[0], strict=True))
    expected = {"headYaw": -math.degrees(0.3), "headPitch": math.degrees(0.2), "headRoll": -math.degrees(0.1)}
    assert {name: head[name] for name in arkit.HEAD} == pytest.approx(expected)
    np.testing.assert_array_equal(take.with_head_from_start().values[:, 52:], 0)
    degrees = live_link(np.hstack([values[:, :52], np.degrees(values[:, 52:])]), timecodes(3))
    np.testing.assert_allclose(read_take(write(degrees)).values, take.values)


def test_an_all_zero_head_was_not_recorded(write):
    values = recorded(10)
    values[:, 52:] = 0
    assert read_take(write(live_link(values, timecodes(10)))).names == tuple(map(arkit_name, FACE))


@pytest.mark.parametrize(
    ("rename", "delimiter", "encoding"),
    [
        (str.upper, ",", "utf-8"),
        (str.lower, ";", "utf-8"),
        (arkit_name, "\t", "utf-8-sig"),
        (lambda name: f" {name} ", ",", "utf-8"),
        (lambda name: name.replace("Left", "_L").replace("Right", "_R") if "Jaw" not in name else name, ",", "utf-8"),
    ],
    ids=["capitals", "semicolons", "tabs and a mark", "spaces", "old sides"],
)
def test_spelling_variants(write, rename, delimiter, encoding):
    values = recorded(20)[:, :52]
    names = [rename(name) if name not in ("MouthLeft", "MouthRight") else name for name in FACE]
    columns = {name: column.tolist() for name, column in zip(names, values.T, strict=True)}
    take = read_take(write(columns, delimiter, encoding=encoding))
    assert take.names == tuple(map(arkit_name, FACE))
    np.testing.assert_array_equal(take.values, values)


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [(";", "utf-8"), (";", "utf-16"), ("\t", "utf-16"), (";", "utf-16-le"), (";", "cp1252"), ("\t", "cp1252")],
)
def test_a_decimal_comma(write, delimiter, encoding):
    columns = {"Timecode": timecodes(3, sub=False), "JawOpen": ["0,25", "0,5", "1"], "Büro": ["è", "ß", ""]}
    take = read_take(write(columns, delimiter, encoding=encoding))
    np.testing.assert_array_equal(take.values[:, 0], [0.25, 0.5, 1])


@pytest.mark.parametrize(
    ("column", "cells", "step"),
    [
        (None, None, 1 / 30),
        ("Frame", range(7, 17), 1 / 30),
        ("time", [5 + index * 0.04 for index in range(10)], 0.04),
        ("Timestamp", [1_000 + index * 40 for index in range(10)], 0.04),
        ("timestamp_ms", [index * 16.7 for index in range(10)], 0.0167),
        ("timestamp", [10**15 + index * 16_700_000 for index in range(10)], 0.0167),
        ("Time", timecodes(10, every=2), 1 / 30),
    ],
    ids=["no time", "frames", "seconds", "milliseconds", "named so", "nanoseconds", "timecode called time"],
)
def test_plain_tables_with_and_without_times(write, column, cells, step):
    values = recorded(10)[:, :52]
    columns = {} if column is None else {column: list(cells)}
    columns |= {name: part.tolist() for name, part in zip(FACE, values.T, strict=True)}
    take = read_take(write(columns), fps=30)
    np.testing.assert_allclose(take.times, np.arange(10) * step, atol=1e-6)
    np.testing.assert_array_equal(take.values, values)
    assert (take.start is None) == (column != "Time")


def test_missing_and_unknown_columns(write):
    take = read_take(write({"jawOpen": [0.5, 1], "_neutral": [0, 0], "eyeBlinkLeft": [0, 1], "TongueOut": ["", ""]}))
    assert take.names == ("jawOpen", "eyeBlinkLeft")
    np.testing.assert_array_equal(take.values, [[0.5, 0], [1, 1]])


def test_exchange_of_left_and_right(write):
    take = read_take(write({"JawLeft": [1], "JawRight": [2], "MouthLeft": [0.3], "MouthSmileLeft": [0.4]}))
    swapped = take.with_sides_swapped()
    assert swapped.names == ("jawRight", "jawLeft", "mouthRight", "mouthSmileLeft")
    np.testing.assert_array_equal(swapped.values, take.values)


# --- Time


@pytest.mark.parametrize(("count", "every"), [(24, 1), (25, 1), (30, 1), (50, 2), (60, 2), (60, 1)])
def test_timecode_rate_from_the_end_of_a_second(write, count, every):
    values = recorded(150)
    take = read_take(write(live_link(values, timecodes(150, count, every))))
    assert take.rate == Rate(count, float(count))
    np.testing.assert_allclose(take.times, np.arange(150) * every / count, atol=1e-9)


def test_short_takes_use_the_rate_of_live_link_face(write):
    take = read_take(write(live_link(recorded(10), timecodes(10, 60, 1, first=3))))
    assert take.rate.count == 60
    assert read_take(take_path(write, 10), rate="25").rate == Rate(25, 25.0)


def take_path(write, rows):
    return write(live_link(recorded(rows), timecodes(rows, 25)))


def test_missing_rows_leave_a_gap(write):
    values, codes = recorded(120), timecodes(120)
    kept = [index for index in range(120) if not 40 <= index < 70]
    whole = read_take(write(live_link(values, codes)))
    gap = read_take(write(live_link(values[kept], [codes[index] for index in kept])))
    np.testing.assert_allclose(gap.at(whole.times)[kept], whole.values[kept], atol=1e-12)
    assert gap.duration == whole.duration


def test_rows_without_face_and_truncated_rows_are_skipped(write):
    columns = live_link(recorded(6), timecodes(6))
    path = write(columns)
    lines = path.read_text().splitlines()
    lines[3] = ",".join([lines[3].split(",")[0], "0"] + [""] * 61)
    lines[6] = lines[6][: len(lines[6]) // 2]
    path.write_text("\n".join([*lines, "", ""]))
    take = read_take(path)
    np.testing.assert_allclose(take.times, np.array([0, 1, 3, 4]) / 60)
    assert take.skipped == 2


def test_sub_frames(write):
    codes = ["10:00:00:00.000", "10:00:00:01.500", "10:00:00:03.250"]
    take = read_take(write({"Timecode": codes, "JawOpen": [0, 1, 0]}))
    np.testing.assert_allclose(take.times, np.array([0, 1.5, 3.25]) / 60)


def test_times_increase_across_midnight(write):
    take = read_take(write(live_link(recorded(100), timecodes(100, 60, 1, first=60 * 86400 - 50))))
    np.testing.assert_allclose(take.times, np.arange(100) / 60, atol=1e-9)


def test_repeated_times_are_left_out(write):
    take = read_take(write({"Timecode": ["00:00:00:00", "00:00:00:01", "00:00:00:01"], "JawOpen": [0, 0.5, 0.7]}))
    assert (len(take.times), take.skipped) == (2, 1)


@pytest.mark.parametrize(("rate", "count"), [("29.97 drop", 30), ("59.94 drop", 60)])
def test_drop_frame_timecode(rate, count):
    """Existing frame numbers are evenly spaced, and an hour of them lasts an hour."""
    found = []
    for minute in range(21):
        for second in (0, 1, 59):
            for frame in range(count):
                exists = not (second == 0 and frame < count // 15 and minute % 10)
                if exists:
                    found.append(timecode_seconds(f"00:{minute:02}:{second:02};{frame:02}", Rate.parse(rate)))
    steps = np.diff(found)
    assert (steps > 0).all()
    within = steps[steps < 0.5]
    np.testing.assert_allclose(within, 1001 / (count * 1000), atol=1e-9)
    at = timecode_seconds("01:00:00;00", Rate.parse(rate))
    assert at == pytest.approx(3600, abs=0.004)
    assert timecode_seconds("01:00:00:00", Rate.parse(rate.split()[0])) == pytest.approx(3603.6)


def test_a_semicolon_marks_drop_frame(write):
    codes = [code[:8] + ";" + code[9:] for code in timecodes(90, 30, sub=False)]
    take = read_take(write({"Timecode": codes, "JawOpen": np.linspace(0, 1, 90).tolist()}))
    assert take.rate == Rate(30, 30_000 / 1001, drop=True)
    np.testing.assert_allclose(take.times, np.arange(90) * 1001 / 30_000)


@pytest.mark.parametrize("fps", [24000 / 1001, 24, 25, 30, 50, 60])
def test_linear_motion_is_the_same_at_any_frame_rate(write, fps):
    ramp = np.linspace(0, 1, 121)
    take = read_take(write({"Timecode": timecodes(121), "JawOpen": ramp.tolist()}))
    seconds = np.arange(int(2 * fps) + 1) / fps
    np.testing.assert_allclose(take.at(seconds)[:, 0], seconds / 2, atol=1e-4)
    np.testing.assert_array_equal(take.at(np.array([-1.0, 5.0]))[:, 0], [0, 1])


@pytest.mark.parametrize("text", ["", "ten", "0", "500", "30 drop", "25 drop", "23.976 drop", "29.97 dropped"])
def test_invalid_timecode_rates(text):
    with pytest.raises(EDTalkError, match="Unsupported timecode rate"):
        Rate.parse(text)


# --- What is no take


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "the file is empty"),
        ("\n\n \n", "the file is empty"),
        ("0.1,0.2\n0.3,0.4\n", "the header has no ARKit blend shapes"),
        ("name,age\nAnna,30\n", "the header has no ARKit blend shapes"),
        ("HeadYaw,HeadPitch\n0,0\n", "the header has no ARKit blend shapes"),
        ("Timecode,JawOpen\n", "no row contains a face"),
        ("Timecode,JawOpen\n00:00:00:00,\n", "no row contains a face"),
        ("Timecode,JawOpen\n00:00:00:00,wide\n", "line 2 has 'wide' for JawOpen, expected a number"),
        ("Timecode,JawOpen\n\n00:00:00:00,nan\n", "line 3 has 'nan' for JawOpen"),
        ("Timecode,JawOpen\n00:00:00:00,87\n", "blend shapes go up to 87, expected 0 to 1"),
        ("Timecode,JawOpen\nyesterday,0.5\n", "line 2 has the timecode 'yesterday'"),
        ("Timecode,JawOpen\n00:00:05:00,0.5\n00:00:04:00,0.5\n", "the time decreases in line 3"),
        ("time,JawOpen\n1,0.5\n0.5,0.5\n", "the time decreases in line 3"),
        ("JawOpen\n" + '"' + "x" * 200_000, "it is not a table"),
    ],
)
def test_invalid_files(tmp_path, content, complaint):
    path = tmp_path / "odd.csv"
    path.write_text(content)
    with pytest.raises(EDTalkError) as caught:
        read_take(path)
    assert complaint in caught.value.message
    assert caught.value.message.startswith("odd.csv cannot be read: ")
    assert caught.value.message.endswith(".")
    assert caught.value.hint


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(EDTalkError, match=r"none\.csv does not exist"):
        read_take(tmp_path / "none.csv")
    with pytest.raises(EDTalkError, match="could not be read"):
        read_take(tmp_path)
    (tmp_path / "film.csv").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(EDTalkError, match="it is not text"):
        read_take(tmp_path / "film.csv")


# --- A bank's sliders


def test_the_starter_bank_matches_its_names():
    bank = read_bank(STARTER)
    names = list(arkit.NAMES)
    values = np.random.default_rng(1).uniform(0, 1, (5, len(names)))
    values[:, -3:] = (values[:, -3:] - 0.5) * 60
    curves = character_arkit.to_bank(bank.coefficients, names, values)
    at = {name: values[:, index] for index, name in enumerate(names)}
    np.testing.assert_allclose(curves["jawOpen"], at["jawOpen"])
    np.testing.assert_allclose(curves["mouthSmile"], (at["mouthSmileLeft"] + at["mouthSmileRight"]) / 2)
    np.testing.assert_allclose(curves["headYaw"], at["headYaw"] / 30)
    np.testing.assert_allclose(curves["headPitch"], at["headPitch"] / 20)
    np.testing.assert_allclose(curves["headRoll"], at["headRoll"] / 20)
    assert set(bank.names) - set(curves) == {"headShiftX", "headShiftY", "headScale"}


def test_a_missing_side_is_replaced_by_the_other():
    entry = Coefficient("mouthSmile", "lip", arkit={"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5})
    curves = character_arkit.to_bank([entry], ["mouthSmileRight", "jawOpen"], np.array([[0.8, 1.0]]))
    assert curves.keys() == {"mouthSmile"}
    assert curves["mouthSmile"] == pytest.approx([0.8])


def test_bank_round_trip():
    """Converting face units to coefficients and back keeps the coefficients."""
    coefficients = [
        *read_bank(STARTER).coefficients,
        Coefficient("axis", "lip", arkit={"eyeLookInLeft": -3.0, "eyeLookOutRight": 2.0}),
    ]
    back = character_arkit.from_bank(coefficients)
    rows = np.random.default_rng(2).standard_normal((4, len(coefficients)))
    column = {entry.name: index for index, entry in enumerate(coefficients)}
    units = np.array([sum(gain * rows[:, column[name]] for name, gain in part.items()) for part in back.values()]).T
    again = character_arkit.to_bank(coefficients, list(back), units)
    for name, curve in again.items():
        np.testing.assert_allclose(curve, rows[:, column[name]], atol=1e-9)
    assert len(again) == len(coefficients) - 3
    assert back["mouthSmileLeft"] == pytest.approx({"mouthSmile": 1.0})
    assert back["headYaw"] == pytest.approx({"headYaw": 30.0})


def test_a_bank_without_arkit_weights():
    assert character_arkit.from_bank([Coefficient("lip_01", "lip")]) == {}
    assert character_arkit.to_bank([Coefficient("lip_01", "lip")], ["jawOpen"], np.ones((2, 1))) == {}
