"""Time maps at common frame rates."""

import json
import math

import numpy as np
import pytest
from edtalk.edtalk_blender.timeline import timemap
from edtalk.edtalk_blender.timeline.timemap import TimeMap, scene_fps
from edtalk.inference.contract.errors import EDTalkError

RATES = {
    "23.976": (24, 1.001),
    "24": (24, 1.0),
    "25": (25, 1.0),
    "29.97": (30, 1.001),
    "30": (30, 1.0),
    "50": (50, 1.0),
    "60": (60, 1.0),
}


@pytest.fixture(params=RATES.values(), ids=RATES.keys())
def fps(request) -> float:
    return scene_fps(*request.param)


def plain(fps: float, start: int = 10, end: int = 110, **changes) -> TimeMap:
    return TimeMap.of_strip(fps, start, end, changes.pop("content_start", start), **changes)


def halved(fps: float) -> TimeMap:
    """A sound of 100 frames from frame 10, slowed down to 200 frames."""
    return plain(fps, 10, 210, retiming=((10, 0.0), (210, 100.0)))


def test_blenders_float32_fps_base_is_rounded_to_the_exact_rate():
    assert scene_fps(24, float(np.float32(1.001))) == 24 / 1.001
    assert scene_fps(30, 1.0) == 30.0
    with pytest.raises(EDTalkError, match="frame rate above 0"):
        scene_fps(0, 1.0)


def test_a_second_lasts_fps_frames(fps):
    strip = plain(fps)
    assert strip.seconds(10) == 0
    assert strip.seconds(10 + fps) == pytest.approx(1.0, abs=1e-12)
    assert strip.frames[[0, -1]].tolist() == [10, 109]
    assert strip.speed == pytest.approx(1.0)


def test_an_hour_does_not_drift(fps):
    strip = plain(fps, 0, round(3600 * fps))
    assert strip.seconds(strip.frames) == pytest.approx(strip.frames / fps, abs=1e-9)


def test_three_seconds_of_film_at_24_over_1_001_are_72_frames():
    strip = plain(scene_fps(24, 1.001), 0, 72)
    assert strip.cut(3.0) == (0.0, 3.0)
    assert strip.seconds(71) == pytest.approx(71 * 1.001 / 24)
    assert strip.seconds(12) == pytest.approx(0.5005)


def test_trimming_does_not_move_content(fps):
    whole, part = plain(fps), plain(fps, 35, 60, content_start=10)
    assert part.seconds(part.frames) == pytest.approx(whole.seconds(part.frames))
    assert part.cut(1000) == pytest.approx((25 / fps, 50 / fps))
    assert len(part.frames) == 25


def test_content_may_start_between_two_frames(fps):
    """A handle at 22.5 shows the strip from frame 22, where the sound is 12 frames in."""
    assert plain(fps, 22, 60, content_start=10).seconds(22) == pytest.approx(12 / fps)


def test_a_hard_trim_skips_the_start_of_the_source(fps):
    assert plain(fps, trimmed=10).seconds(10) == pytest.approx(10 / fps)


@pytest.mark.parametrize("delay", [0.2, -0.2])
def test_a_sound_offset_delays_the_source(fps, delay):
    strip = plain(fps, delay=delay)
    assert strip.seconds(10) == pytest.approx(-delay)
    assert strip.frame_of(1.0) == pytest.approx(10 + (1 + delay) * fps)
    assert strip.cut(100)[0] == pytest.approx(max(-delay, 0))


def test_slower_sound_takes_longer(fps):
    slow = halved(fps)
    assert slow.speed == pytest.approx(0.5)
    assert slow.seconds(110) == pytest.approx(50 / fps)
    assert slow.cut(1000) == pytest.approx((0, 100 / fps))


def test_speed_and_trim_together(fps):
    slow = plain(fps, 60, 210, content_start=10, retiming=((10, 0.0), (210, 100.0)))
    assert slow.seconds(60) == pytest.approx(25 / fps)


def test_a_strip_retimed_in_parts(fps):
    keys = ((10, 0.0), (60, 50.0), (160, 100.0), (170, 100.0), (270, 150.0))  # own speed, half, frozen, half
    strip = plain(fps, 10, 270, retiming=keys)
    heard = np.array([0, 50, 75, 100, 100, 125, 150]) / fps
    assert strip.seconds([10, 60, 110, 160, 165, 220, 270]) == pytest.approx(heard)
    assert strip.frame_of(np.array([50, 75, 125]) / fps) == pytest.approx([60, 110, 220])
    assert strip.frame_of(100 / fps) in (160, 170)


def test_frames_and_seconds_are_each_others_inverse(fps):
    frames = np.linspace(-50, 400, 91)
    for strip in (plain(fps), plain(fps, delay=0.3, trimmed=4), halved(fps)):
        assert strip.frame_of(strip.seconds(frames)) == pytest.approx(frames)


def test_a_cut_ends_at_the_length_of_the_sound(fps):
    assert plain(fps, 0, 1000).cut(2.0) == (0.0, 2.0)
    first, last = plain(fps, 500, 600, content_start=0).cut(2.0)
    assert first == last == 2.0


def test_a_move_is_distinguished_from_other_changes(fps):
    strip = plain(fps)
    assert strip.move_to(strip) == 0
    assert strip.move_to(strip.moved(-7)) == -7
    assert strip.move_to(plain(fps, 20, 110, content_start=10)) is None  # trimmed
    assert strip.move_to(plain(fps, 10, 110, content_start=5)) is None  # slipped
    assert strip.move_to(halved(fps)) is None


def test_equal_maps_with_different_knots_are_the_same(fps):
    keyed = plain(fps, 10, 110, retiming=((10, 0.0), (40, 30.0), (110, 100.0)))
    assert plain(fps).same_as(keyed)
    assert not plain(fps).same_as(plain(fps * 1.001))


def test_follow_keeps_frames_on_their_source_time(fps):
    frames, strip = np.array([10.0, 35.0, 109.0]), plain(fps)
    assert strip.follow(frames, strip.moved(100)).tolist() == [110.0, 135.0, 209.0]
    assert strip.follow(frames, plain(fps, 30, 90, content_start=10)).tolist() == frames.tolist()  # trimmed
    assert strip.follow(frames, plain(fps, 10, 110, content_start=5)).tolist() == (frames - 5).tolist()  # slipped
    assert strip.follow(frames, halved(fps)).tolist() == [10.0, 60.0, 208.0]  # retimed


def test_moves_are_linear_pieces(fps):
    strip = plain(fps)
    assert strip.moves_to(strip.moved(7)) == [(10.0, 109.0, 7.0, 1.0)]
    assert strip.moves_to(plain(fps, 30, 90, content_start=10)) == []  # trimmed: nothing moves
    assert strip.moves_to(plain(fps, 10, 110, content_start=5)) == [(10.0, 109.0, -5.0, 1.0)]  # slipped
    assert strip.moves_to(halved(fps)) == [(10.0, 109.0, 0.0, 2.0)]
    partly = plain(fps, 10, 160, retiming=((10, 0.0), (60, 50.0), (160, 100.0)))  # its second half at half speed
    assert strip.moves_to(partly) == [(60.0, 109.0, 0.0, 2.0)]
    assert plain(fps, 10, 11).moves_to(plain(fps, 12, 13)) == [(10.0, 10.0, 2.0, 1.0)]


def test_a_metastrip_limits_its_content(fps):
    assert (plain(fps).clipped(20, 500).start, plain(fps).clipped(20, 500).end) == (20, 110)
    assert len(plain(fps).clipped(200, 300).frames) == 0


def test_json_round_trip(fps):
    strip = halved(fps)
    assert TimeMap.from_json(json.loads(json.dumps(strip.to_json()))) == strip
    with pytest.raises(EDTalkError, match="not readable"):
        TimeMap.from_json({"fps": fps})


@pytest.mark.parametrize(
    "change",
    [{"fps": 0.0}, {"end": 5}, {"knots": ((10, 0.0),)}, {"knots": ((10, 1.0), (20, 0.0))},
     {"knots": ((10, 0.0), (10, 1.0))}, {"knots": ((10, 0.0), (20, math.nan))}],
)  # fmt: skip
def test_a_map_that_does_not_run_forwards_is_refused(change):
    with pytest.raises(EDTalkError, match="time map"):
        TimeMap(**({"fps": 24.0, "start": 10, "end": 20, "knots": ((10, 0.0), (20, 1.0))} | change))


def test_rest_frames_lie_where_no_strip_plays():
    one, two, three = (plain(24, *ends) for ends in ((10, 20), (20, 30), (40, 50)))
    strips = [one, two, three]
    assert timemap.rest_frames(strips, one) == (9, None)
    assert timemap.rest_frames(strips, two) == (None, 30)
    assert timemap.rest_frames(strips, three) == (39, 50)


def test_a_sound_gets_whole_frames():
    assert [timemap.content_frames(seconds, 24) for seconds in (1.528, 1.548, 0.02)] == [37, 37, 1]
    assert timemap.content_frames(10.0, 25, trimmed=10) == 240


def test_uncovered_parts_of_a_range():
    assert timemap.uncovered((0, 100), []) == [(0, 100)]
    assert timemap.uncovered((0, 100), [(40, 60), (-5, 10), (50, 70)]) == [(10, 40), (70, 100)]
    assert timemap.uncovered((0, 100), [(-5, 300)]) == []
    assert timemap.uncovered((0, 100), [(200, 300)]) == [(0, 100)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fps", math.inf), ("fps", math.nan), ("fps", 10**400), ("start", math.inf), ("end", 10**9), ("knots", None),
        ("knots", [0, 0, 1]), ("knots", [0, 0, math.inf, 1]), ("knots", {}), ("knots", [[]]),
    ],
)  # fmt: skip
def test_forged_time_maps_are_refused(key, value):
    data = TimeMap.of_strip(25, 1, 101, 1).to_json() | {key: value}
    with pytest.raises(EDTalkError):
        TimeMap.from_json(data)


def test_the_union_of_ranges():
    assert timemap.union([(5, 9), (20, 20), (1, 3)]) == (1, 9)
    assert timemap.union([(4, 4)]) is None


def test_a_different_frame_rate_gives_a_warning():
    assert timemap.rate_mismatch(24, 24) == ""
    assert timemap.rate_mismatch(24 / 1.001, 23.976) == ""  # as files state it
    assert "23.976 fps, the scene 24" in timemap.rate_mismatch(24, 24 / 1.001)
    assert "60 frames per minute" in timemap.rate_mismatch(24, 25)
