"""Writing and sampling keyframes: actions, NLA, drivers, and what overrides written keyframes."""

import bpy
import numpy as np
import pytest


@pytest.fixture
def animation(package):
    return package.animation.keys


@pytest.fixture
def character(package):
    return package.character


@pytest.fixture
def keys(package, character):
    """`keys(obj, "jawOpen")`: {frame: value} of a slider's keys."""

    def read(obj, name: str) -> dict[float, float]:
        curve = curve_of(package, obj, name)
        return {point.co.x: pytest.approx(point.co.y) for point in curve.keyframe_points} if curve else {}

    return read


def curve_of(package, obj, name):
    path = package.character.sliders.data_path(name)
    return next((curve for curve in package.compat.fcurves(obj) if curve.data_path == path), None)


def shown(obj, name):
    return obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).edtalk[name]


# --- Sliders are plain properties


@pytest.mark.parametrize("name", ["jawOpen", "headYaw", "browDown", "happy"])
def test_each_slider_has_its_own_named_fcurve(package, obj, name):
    assert obj.edtalk.keyframe_insert(f'["{name}"]', frame=1)
    (curve,) = package.compat.fcurves(obj)
    assert curve.data_path == package.character.sliders.data_path(name) == f'edtalk["{name}"]'
    assert curve.array_index == 0
    assert obj.path_resolve(curve.data_path) == obj.edtalk[name]


def test_an_action_animates_the_evaluated_slider(obj, scene):
    for frame, value in ((1, 0.0), (11, 1.0)):
        obj.edtalk["jawOpen"] = value
        obj.keyframe_insert('edtalk["jawOpen"]', frame=frame)
    for point in obj.animation_data.action.layers[0].strips[0].channelbags[0].fcurves[0].keyframe_points:
        point.interpolation = "LINEAR"
    scene.frame_set(6)
    assert shown(obj, "jawOpen") == pytest.approx(0.5)


def test_a_driver_animates_the_evaluated_slider(obj, scene):
    driver = obj.edtalk.driver_add('["jawOpen"]').driver
    driver.expression = "frame / 10"
    scene.frame_set(5)
    assert shown(obj, "jawOpen") == pytest.approx(0.5)


def test_strength_and_mute_are_animated(package, obj, scene):
    obj.edtalk["jawOpen"] = 1.0
    state = obj.edtalk.banks["lip"]
    for frame, strength, mute in ((1, 1.0, False), (11, 0.0, False), (12, 0.5, True)):
        state.strength, state.mute = strength, mute
        state.keyframe_insert("strength", frame=frame)
        state.keyframe_insert("mute", frame=frame)
    rows = package.animation.sampling.sample(scene, obj, [1, 6, 11, 12])
    assert rows[:, 0] == pytest.approx([1.0, 0.5, 0.0, 0.0])


# --- Writing in bulk


def test_curves_are_written_with_group_and_interpolation(package, animation, obj):
    frames = np.arange(1, 25)
    animation.write_curves(obj, {"jawOpen": np.linspace(0, 1, 24), "headYaw": np.zeros(24), "sad": frames / 24}, frames)
    groups = {curve.data_path: curve.group.name for curve in package.compat.fcurves(obj)}
    assert groups == {'edtalk["jawOpen"]': "Mouth", 'edtalk["headYaw"]': "Head", 'edtalk["sad"]': "Emotion"}
    curve = curve_of(package, obj, "jawOpen")
    assert {point.interpolation for point in curve.keyframe_points} == {"LINEAR"}
    assert curve.evaluate(12.5) == pytest.approx(11.5 / 23)
    assert obj.edtalk.action == obj.animation_data.action


def test_a_minute_of_dialogue_is_written_exactly(package, animation, character, obj):
    frames = np.arange(1440) + 1.0
    names = character.files.bank_of(obj).names_of("lip")
    table = np.random.default_rng(1).random((1440, 20), np.float32)
    animation.write_curves(obj, dict(zip(names, table.T, strict=True)), frames, replace=(1, 1440))
    rows = package.animation.sampling.sample(bpy.context.scene, obj, frames)
    np.testing.assert_array_equal(rows[:, :20], table)


def test_only_the_range_is_replaced_and_neighbours_keep_their_handles(package, animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.full(5, 0.25)}, np.array([0, 10, 20, 30, 40]), interpolation="BEZIER")
    curve = curve_of(package, obj, "jawOpen")
    first, last = curve.keyframe_points[0], curve.keyframe_points[-1]
    for point in (first, last):
        point.handle_left_type = point.handle_right_type = "FREE"
        point.handle_right = point.co.x + 2.0, 0.9
    last.interpolation, last.easing = "ELASTIC", "EASE_IN"
    last.period, last.type = 3.5, "EXTREME"
    animation.write_curves(obj, {"jawOpen": np.array([0.5, 0.75])}, np.array([12, 18]), replace=(10, 30))
    assert keys(obj, "jawOpen") == {0: 0.25, 12: 0.5, 18: 0.75, 40: 0.25}
    curve = curve_of(package, obj, "jawOpen")
    first, last = curve.keyframe_points[0], curve.keyframe_points[-1]
    assert tuple(first.handle_right) == pytest.approx((2.0, 0.9))
    assert tuple(last.handle_right) == pytest.approx((42.0, 0.9))
    assert (first.handle_right_type, last.interpolation, last.easing) == ("FREE", "ELASTIC", "EASE_IN")
    assert (last.period, last.type) == (3.5, "EXTREME")


def test_other_curves_are_left_alone(animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.ones(3), "headYaw": np.ones(3)}, np.array([1, 2, 3]))
    animation.write_curves(obj, {"jawOpen": np.zeros(1)}, np.array([2]), replace=(1, 3))
    assert keys(obj, "jawOpen") == {2: 0.0}
    assert keys(obj, "headYaw") == {1: 1.0, 2: 1.0, 3: 1.0}


def test_without_a_range_only_keys_at_the_same_frame_are_replaced(animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.zeros(3)}, np.array([1, 2, 3]))
    animation.insert_keys(obj, {"jawOpen": 0.5}, 2)
    animation.insert_keys(obj, {"jawOpen": 0.75}, 2.5)
    assert keys(obj, "jawOpen") == {1: 0.0, 2: 0.5, 2.5: 0.75, 3: 0.0}


def test_a_shared_action_is_copied_before_writing(animation, scene, obj, keys):
    animation.insert_keys(obj, {"jawOpen": 0.25}, 1)
    other = obj.copy()
    scene.collection.objects.link(other)
    assert other.animation_data.action == obj.animation_data.action
    animation.insert_keys(other, {"jawOpen": 0.75}, 1)
    assert keys(obj, "jawOpen") == {1: 0.25}
    assert keys(other, "jawOpen") == {1: 0.75}


@pytest.fixture
def prop(scene):
    """An object that is keyed at x = 7 in the action "Shot"."""
    prop = bpy.data.objects.new("Prop", None)
    scene.collection.objects.link(prop)
    prop.animation_data_create().action = bpy.data.actions.new("Shot")
    prop.location.x = 7.0
    prop.keyframe_insert("location", frame=1)
    return prop


def slots_after_keying(obj, action, key, *, has_own):
    """Identifiers of the action's slots, the assigned one last. has_own: an unassigned slot has the object's name."""
    if has_own:
        action.slots.new(id_type="OBJECT", name=obj.name)
    obj.animation_data_create().action = action
    obj.animation_data.action_slot = None
    key()
    assert obj.animation_data.action == action
    return [slot.identifier for slot in action.slots] + [obj.animation_data.action_slot.identifier]


@pytest.mark.parametrize("has_own", [False, True])
def test_a_slot_is_chosen_like_blenders_keyframe_insert(animation, obj, prop, has_own):
    action = prop.animation_data.action
    copy = action.copy()
    by_blender = slots_after_keying(obj, copy, lambda: obj.keyframe_insert("scale", frame=1), has_own=has_own)
    ours = slots_after_keying(obj, action, lambda: animation.insert_keys(obj, {"jawOpen": 1.0}, 1), has_own=has_own)
    assert ours == by_blender


def test_an_action_with_the_slot_of_another_object_only_gets_a_slot(animation, package, scene, obj, prop, keys):
    obj.animation_data_create().action = prop.animation_data.action
    animation.insert_keys(obj, {"jawOpen": 1.0}, 1)
    scene.frame_set(1)
    assert obj.animation_data.action == prop.animation_data.action
    assert tuple(obj.matrix_world.translation) == (0.0, 0.0, 0.0)
    assert [curve.data_path for curve in package.compat.fcurves(prop)] == ["location"] * 3
    assert keys(obj, "jawOpen") == {1: 1.0}


def test_the_action_of_a_renamed_character_is_found(animation, package, obj, keys):
    animation.insert_keys(obj, {"jawOpen": 0.5}, 1)
    action = obj.animation_data.action
    obj.animation_data_clear()
    obj.name = "Renamed"
    package.compat.assign_action(obj, action)
    assert keys(obj, "jawOpen") == {1: 0.5}


def test_an_nla_strip_that_another_character_uses_is_not_overwritten(animation, package, scene, obj):
    animation.write_curves(obj, {"jawOpen": np.ones(2)}, np.array([1, 20]), nla=True, strip_name="Line")
    other = obj.copy()
    scene.collection.objects.link(other)
    animation.write_curves(other, {"jawOpen": np.zeros(2)}, np.array([1, 20]), nla=True, strip_name="Line")
    _track, strip = animation.find_strip(obj, "Line")
    (curve,) = package.compat.slot_fcurves(strip.action, strip.action_slot)
    assert curve.evaluate(1) == 1.0


def test_keys_are_moved_with_their_handles(package, animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.arange(4.0)}, np.array([0, 10, 20, 30]), interpolation="BEZIER")
    point = curve_of(package, obj, "jawOpen").keyframe_points[1]
    point.handle_left_type = point.handle_right_type = "FREE"
    point.handle_right = 14.0, 1.0
    animation.move_keys(obj, ["jawOpen", "headYaw"], [animation.Move(10, 20, 5)])
    assert keys(obj, "jawOpen") == {0: 0, 15: 1, 25: 2, 30: 3}
    assert curve_of(package, obj, "jawOpen").keyframe_points[1].handle_right.x == pytest.approx(19.0)
    animation.move_keys(obj, ["jawOpen"], [animation.Move(15, 25, -15, scale=2.0)])
    assert keys(obj, "jawOpen") == {0: 1, 20: 2, 30: 3}, "a moved key replaces an unmoved one"


def test_two_ranges_can_swap_places(animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.arange(4.0)}, np.array([0, 1, 10, 11]))
    animation.move_keys(obj, ["jawOpen"], [animation.Move(0, 1, 10), animation.Move(10, 11, -10)])
    assert keys(obj, "jawOpen") == {0: 2, 1: 3, 10: 0, 11: 1}


def test_removing_all_keys_removes_the_fcurve(package, animation, obj, keys):
    animation.write_curves(obj, {"jawOpen": np.zeros(3)}, np.array([1, 2, 3]))
    animation.remove_keys(obj, ["jawOpen", "headYaw"], 2, 3)
    assert keys(obj, "jawOpen") == {1: 0.0}
    animation.remove_keys(obj, ["jawOpen"], -np.inf, np.inf)
    assert curve_of(package, obj, "jawOpen") is None


# --- Sampling


def animate(package, obj):
    """Animate sliders of all kinds, some beyond their limits, some muted."""
    frames = np.array([1.0, 4.0, 9.5])
    curves = {"jawOpen": np.array([0, 1, 2.0]), "headYaw": np.array([-1, 5, 0.0]), "happy": np.array([-1, 3, 0.5])}
    package.animation.keys.write_curves(obj, curves | {"browDown": np.ones(3), "mouthPucker": np.ones(3)}, frames)
    curve_of(package, obj, "browDown").mute = True
    curve_of(package, obj, "mouthPucker").modifiers.new("NOISE")
    obj.edtalk["browDown"], obj.edtalk["sad"], obj.edtalk["tongueOut"] = 0.125, 0.25, 0.375
    state = obj.edtalk.banks["exp"]
    for frame, strength, solo in ((1, 0.5, False), (5, 20.0, False), (8, 1.0, True)):
        state.strength, state.solo = min(strength, 10.0), solo
        state.keyframe_insert("strength", frame=frame)
        state.keyframe_insert("solo", frame=frame)


def test_evaluating_fcurves_agrees_with_stepping(package, animation, obj, scene):
    animate(package, obj)
    frames = [0, 1, 2, 3.5, 5, 8, 9.25, 12]
    assert package.animation.sampling.has_only_fcurves(obj)
    fast = package.animation.sampling.sample(scene, obj, frames)
    obj.edtalk.driver_add('["mouthDimple"]').driver.expression = "0.0"
    assert not package.animation.sampling.has_only_fcurves(obj)
    np.testing.assert_allclose(package.animation.sampling.sample(scene, obj, frames), fast, atol=1e-6)


def test_sampling_includes_drivers_and_restores_the_scene(package, animation, obj, scene):
    animation.write_curves(obj, {"headYaw": np.array([0.0, 1.0])}, np.array([1, 11]))
    scene.frame_set(3, subframe=0.5)
    obj.edtalk["headYaw"] = 0.9  # not keyed
    obj.edtalk.driver_add('["jawOpen"]').driver.expression = "frame / 10"
    collections = len(bpy.data.collections)
    rows = package.animation.sampling.sample(scene, obj, [1, 6, 11])
    assert rows[:, 0] == pytest.approx([0.1, 0.6, 1.1])
    assert rows[:, 20] == pytest.approx([0.0, 0.5, 1.0])
    assert (scene.frame_current, scene.frame_subframe) == (3, 0.5)
    assert obj.edtalk["headYaw"] == 0.9
    assert len(bpy.data.collections) == collections
    assert package.engine.session.may_apply()


@pytest.mark.parametrize("how", ["hide_viewport", "hide_set", "excluded", "other scene"])
def test_hidden_characters_are_sampled(package, animation, character, obj, scene, how):
    obj.edtalk.driver_add('["jawOpen"]').driver.expression = "frame / 10"
    if how == "hide_viewport":
        obj.hide_viewport = True
    elif how == "hide_set":
        obj.hide_set(True)
    elif how == "excluded":
        collection = bpy.data.collections.new("Faces")
        scene.collection.objects.unlink(obj)
        collection.objects.link(obj)
        scene.collection.children.link(collection)
        bpy.context.view_layer.layer_collection.children["Faces"].exclude = True
    else:
        scene.collection.objects.unlink(obj)
        scene = bpy.data.scenes.new("Other")
        scene.collection.objects.link(obj)
    rows = package.animation.sampling.sample(scene, obj, [2, 7])
    assert rows[:, 0] == pytest.approx([0.2, 0.7])
    assert obj.hide_viewport == (how == "hide_viewport")


def test_sampling_includes_nla_strips(package, animation, obj, scene):
    lines = {"jawOpen": np.array([0.5, 1.0])}
    animation.write_curves(obj, lines, np.array([10, 20]), nla=True, strip_name="Line 1")
    assert not package.animation.sampling.has_only_fcurves(obj)
    rows = package.animation.sampling.sample(scene, obj, [1, 10, 15, 20, 30])
    assert rows[:, 0] == pytest.approx([0, 0.5, 0.75, 1.0, 0])


@pytest.mark.parametrize("seed", range(4))
def test_a_temporary_scene_agrees_with_stepping_through_the_artists(package, animation, obj, scene, seed):
    random = np.random.default_rng(seed)
    for number in range(3):
        start, values = int(random.integers(1, 30)), random.uniform(-1, 1, (2, 4))
        frames = start + np.array([0, 5, 9, 20])
        curves = {"jawOpen": values[0], "happy": values[1]}
        animation.write_curves(obj, curves, frames, nla=True, strip_name=f"Line {number}")
        _track, strip = animation.find_strip(obj, f"Line {number}")
        strip.blend_type = str(random.choice(["REPLACE", "ADD", "SUBTRACT", "MULTIPLY", "COMBINE"]))
        strip.use_animated_influence = True
        strip.influence, strip.scale = random.uniform(0.2, 1.0), random.uniform(0.5, 2.0)
        strip.extrapolation = str(random.choice(["NOTHING", "HOLD", "HOLD_FORWARD"]))
    obj.edtalk.driver_add('["headYaw"]').driver.expression = "sin(frame / 9)"
    scene.render.frame_map_old, scene.render.frame_map_new = 100, 80 + 10 * seed
    frames = [0.5, *range(1, 40, 4)]
    alone = package.animation.sampling.sample_sliders(scene, obj, frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package.animation.sampling, "reads_scene", lambda _obj: True)
        stepped = package.animation.sampling.sample_sliders(scene, obj, frames)
    for one, other in zip(alone, stepped, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.ptp(alone[0], axis=0).max() > 0.1


# --- NLA strips


def test_an_nla_strip_is_replaced_in_place(animation, obj):
    curves = {"jawOpen": np.array([0.5, 1.0])}
    animation.write_curves(obj, curves, np.array([10, 20]), nla=True, strip_name="Line 1")
    animation.write_curves(obj, curves, np.array([30, 40]), nla=True, strip_name="Line 2")
    animation.write_curves(obj, curves, np.array([15, 35]), nla=True, strip_name="Line 3")
    tracks = [[strip.name for strip in track.strips] for track in obj.animation_data.nla_tracks]
    assert tracks == [["Line 1", "Line 2"], ["Line 3"]]
    actions = len(bpy.data.actions)
    animation.write_curves(obj, {"jawOpen": np.array([0.25, 0.75])}, np.array([12, 22]), nla=True, strip_name="Line 1")
    _track, strip = animation.find_strip(obj, "Line 1")
    assert (strip.frame_start, strip.frame_end) == (12, 22)
    assert len(bpy.data.actions) == actions
    assert obj.animation_data.action is None


def test_strips_with_too_long_names_are_found_again(animation, obj):
    name = "A line of dialogue that goes on, and on, and on - ü" * 3
    for _ in range(2):
        animation.write_curves(obj, {"jawOpen": np.ones(2)}, np.array([1, 9]), nla=True, strip_name=name)
    assert animation.find_strip(obj, name) is not None
    assert sum(len(track.strips) for track in obj.animation_data.nla_tracks) == 1


# --- Overridden keyframes


@pytest.fixture
def written(package, animation, obj):
    """A character with mouth keyframes in its action, which have an effect."""
    animation.write_curves(obj, {"jawOpen": np.array([0.0, 1.0])}, np.array([1, 11]))
    assert package.animation.hidden.hidden_by(obj) is None
    return obj


@pytest.fixture
def line(package, animation, obj):
    """A character with mouth keyframes in an NLA strip, which have an effect."""
    animation.write_curves(obj, {"jawOpen": np.array([0.0, 1.0])}, np.array([1, 11]), nla=True, strip_name="Line")
    assert package.animation.hidden.hidden_by(obj) is None
    return obj


def check(package, animation, obj, words):
    """The reason contains `words` and the keyframes have no effect; after `reveal` they have."""
    assert words in (package.animation.hidden.hidden_by(obj) or "nothing hides it")
    values = package.animation.sampling.sample(bpy.context.scene, obj, [1, 11])[:, 0]
    assert values[1] != pytest.approx(1.0)
    assert package.animation.hidden.reveal(obj) is None
    assert package.animation.sampling.sample(bpy.context.scene, obj, [1, 11])[:, 0] == pytest.approx([0.0, 1.0])


def test_without_keyframes_nothing_is_hidden(package, animation, obj):
    assert package.animation.hidden.hidden_by(obj) is None
    obj.animation_data_create()
    assert package.animation.hidden.hidden_by(obj) is None


def test_hidden_by_another_action(package, animation, written):
    written.animation_data.action = bpy.data.actions.new("Walk")
    check(package, animation, written, "'Walk' is assigned")


def test_hidden_by_no_action(package, animation, written):
    written.animation_data.action = None
    check(package, animation, written, "no action is assigned")


def test_hidden_by_a_solo_track(package, animation, written):
    track = written.animation_data.nla_tracks.new()
    track.strips.new("Blink", 1, bpy.data.actions.new("Blink"))
    track.is_solo = True
    check(package, animation, written, "is solo")


def test_hidden_by_muted_curves(animation, package, written):
    curve_of(package, written, "jawOpen").mute = True
    check(package, animation, written, "jawOpen is muted")


def test_hidden_by_a_muted_group(animation, package, written):
    curve_of(package, written, "jawOpen").group.mute = True
    check(package, animation, written, "jawOpen is muted")


def test_hidden_by_a_muted_bank(package, animation, written):
    written.edtalk.banks["lip"].mute = True
    check(package, animation, written, "Mouth of Anna is muted")


def test_hidden_by_another_solo_bank(package, animation, written):
    written.edtalk.banks["pose"].solo = True
    check(package, animation, written, "Mouth of Anna is muted")


def test_hidden_by_a_driver_which_only_the_artist_can_remove(package, animation, written):
    written.edtalk.driver_add('["jawOpen"]').driver.expression = "0.5"
    assert "driver" in package.animation.hidden.hidden_by(written)
    assert "driver" in package.animation.hidden.reveal(written)


def test_a_pushed_down_action_is_not_hidden(package, animation, written):
    data = written.animation_data
    track = data.nla_tracks.new()
    strip = track.strips.new("Line", 1, data.action)
    strip.action_slot = data.action_slot
    data.action = None
    assert package.animation.hidden.hidden_by(written) is None
    strip.mute = True
    check(package, animation, written, "strip 'Line' is muted")


@pytest.mark.parametrize("what", ["track", "strip", "nla", "solo", "influence"])
def test_a_strip_hidden_by_the_nla(package, animation, line, what):
    data = line.animation_data
    track, strip = animation.find_strip(line, "Line")
    if what == "track":
        track.mute = True
    elif what == "strip":
        strip.mute = True
    elif what == "nla":
        data.use_nla = False
    elif what == "influence":
        strip.use_animated_influence = True
        strip.influence = 0.0
    else:
        other = data.nla_tracks.new()
        other.strips.new("Blink", 1, bpy.data.actions.new("Blink"))
        other.is_solo = True
    words = {"nla": "disabled", "solo": "is solo", "influence": "influence of 0"}.get(what, f"NLA {what} ")
    check(package, animation, line, words)


def test_a_strip_hidden_by_the_action(animation, package, line):
    action = bpy.data.actions.new("Still")
    package.compat.assign_action(line, action)
    curve = package.compat.channelbag(line).fcurves.new('edtalk["jawOpen"]')
    curve.keyframe_points.insert(1, 0.0)
    check(package, animation, line, "'Still' animates the same sliders")


def test_a_strip_hidden_by_one_above_it(package, animation, line):
    animation.write_curves(line, {"jawOpen": np.zeros(2)}, np.array([1, 20]), nla=True, strip_name="Over")
    assert package.animation.hidden.hidden_by(line) is None, "the strip that was written last is checked"
    line.edtalk.action = animation.find_strip(line, "Line")[1].action
    check(package, animation, line, "'Over' is above 'Line'")


def test_tweak_mode_hides_the_action_and_is_left_before_writing(package, animation, obj, written):
    data = obj.animation_data
    track = data.nla_tracks.new()
    strip = track.strips.new("Blink", 1, bpy.data.actions.new("Blink"))
    track.select = strip.select = True
    data.nla_tracks.active = track
    data.use_tweak_mode = True
    assert data.use_tweak_mode
    assert "tweak mode" in package.animation.hidden.hidden_by(obj)
    animation.insert_keys(obj, {"headYaw": 1.0}, 1)
    assert not data.use_tweak_mode
    assert package.animation.hidden.hidden_by(obj) is None


# --- Single keyframes


def all_keys(package, curve) -> dict[str, list]:
    return {field: values.tolist() for field, values in package.animation.keys._read_keys(curve).items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_single_keyframe_is_inserted_as_if_all_were_written(package, obj, monkeypatch, seed):
    """With the handles, types and marks of its neighbours, beside and in place of others, generated or not."""
    keys, random = package.animation.keys, np.random.default_rng(seed)
    other = package.character.character.create(bpy.context.scene, name="Ben")
    frames = np.unique(random.integers(1, 60, 20)).astype(float) + random.choice([0.0, 0.25])
    values = random.uniform(-1, 1, len(frames))
    inserted = [
        (float(random.choice([*frames, random.uniform(-5, 70), frames[0] + 0.004])), float(random.uniform(-1, 1)))
        for _ in range(12)
    ]
    kinds = [random.choice(["LINEAR", "BEZIER", "CONSTANT"]) for _ in inserted]
    generated = random.random(len(inserted)) < 0.5
    found = []
    for one in (obj, other):
        if one is other:
            monkeypatch.setattr(keys, "_insert", lambda *_: False)  # all are written
        keys.write_curves(one, {"jawOpen": values}, frames, interpolation="BEZIER")
        (curve,) = package.compat.fcurves(one)
        curve.keyframe_points[2].select_control_point = True
        for (frame, value), kind, is_generated in zip(inserted, kinds, generated, strict=True):
            keys.insert_keys(one, {"jawOpen": value}, frame, interpolation=str(kind), generated=bool(is_generated))
        found.append(all_keys(package, curve))
    assert found[0] == found[1]
