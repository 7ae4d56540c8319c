"""The face over its plate: pixels from the sequencer and the compositor, and the generated nodes."""

from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.picture_material import render, to_levels, to_linear, write_exr, write_png

WIDTH, HEIGHT, FRAMES = 64, 48, 4
CLEAR, SOLID = slice(0, 8), slice(-8, None)  # columns in which the face is fully transparent and fully opaque


@pytest.fixture
def saved(scene, tmp_path):
    """A scene of a few frames in the size of the plate, with default settings otherwise."""
    scene.frame_start, scene.frame_end = 1, FRAMES
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.compositor_device = "CPU"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert scene.view_settings.view_transform == "AgX", "the default of new files"
    return tmp_path


@pytest.fixture
def plate(tmp_path):
    """(H, W, 3) uint8 noise with all levels."""
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    write_png(tmp_path / "plate.png", pixels)
    return pixels


@pytest.fixture
def layer():
    """`layer(n)`: (H, W, 4) uint8 noise of frame n from 1 on, with a matte that rises from left to right."""

    def layer(number: int) -> np.ndarray:
        pixels = np.random.default_rng(100 + number).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
        pixels[..., 3] = np.linspace(0, 255, WIDTH).astype(np.uint8)
        pixels[:, CLEAR, 3], pixels[:, SOLID, 3] = 0, 255
        return pixels

    return layer


@pytest.fixture
def obj(package, scene, saved, plate):
    made = package.character.character.create(scene, str(saved / "plate.png"), name="Anna")
    bpy.context.view_layer.objects.active = made
    made.edtalk.layer = "plate"
    return made


@pytest.fixture
def face(package, scene, obj, fake_engine, layer):
    """`face("png")`: the character's face strip, whose files contain `layer`."""

    def face(kind: str = "png"):
        fake_engine()
        package.timeline.sequencer.settings(scene).image_format = kind
        package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(1, FRAMES + 1))
        bpy.ops.edtalk.render_face(frames="SCENE")
        (strip,) = package.timeline.sequencer.faces(scene, obj)
        write = {"png": write_png, "exr": write_exr}[kind]
        for number, element in enumerate(strip.elements, 1):
            write(package.render.face_strip.folder_of(strip) / element.filename, layer(number))
        package.compat.refresh(strip)
        return strip

    return face


def build(package, scene):
    assert bpy.ops.edtalk.build_compositor() == {"FINISHED"}
    return package.compat.compositor(scene)


def parts(package, tree, strip):
    return package.plate.compositing._parts(tree, package.timeline.sequencer.identity(strip))


def over(layer, plate, linear):
    """The layer over the plate, blended in linear light or in sRGB levels."""
    alpha = layer[..., 3:] / 255
    if not linear:
        return layer[..., :3] * alpha + plate * (1 - alpha)
    return to_levels(to_linear(layer[..., :3]) * alpha + to_linear(plate) * (1 - alpha))


# --- Colours, from the file to the rendered picture


@pytest.mark.parametrize("kind", ["png", "exr"])
def test_through_the_sequencer(package, scene, saved, plate, layer, face, kind):
    strip = face(kind)
    below = package.compat.new_image(scene, "plate", saved / "plate.png", 1, 1)
    strip.channel = 2
    package.compat.set_strip_value(below, "right_handle", FRAMES + 1)
    below.transform.scale_x = below.transform.scale_y = 1.0
    assert (strip.transform.scale_x, strip.transform.offset_x, strip.blend_type) == (1.0, 0.0, "ALPHA_OVER")
    for frame in (1, 3):
        seen = render(scene, saved / "out.png", frame)
        assert (seen[..., 3] == 255).all()
        most = 0 if kind == "png" else 1  # 8-bit strips are blended without rounding
        assert np.abs(seen[:, CLEAR, :3] - plate[:, CLEAR].astype(int)).max() <= most
        assert np.abs(seen[:, SOLID, :3] - layer(frame)[:, SOLID, :3].astype(int)).max() <= most
        assert np.abs(seen[..., :3] - over(layer(frame), plate, linear=False)).max() < 1.5


@pytest.mark.parametrize("kind", ["png", "exr"])
def test_through_the_compositor(package, scene, saved, plate, layer, face, kind):
    face(kind)
    build(package, scene)
    for frame in (1, 3):
        seen = render(scene, saved / "out.png", frame)[..., :3]
        assert np.abs(seen[:, CLEAR] - plate[:, CLEAR].astype(int)).max() <= 1
        assert np.abs(seen[:, SOLID] - layer(frame)[:, SOLID, :3].astype(int)).max() <= 1
        assert np.abs(seen - over(layer(frame), plate, linear=True)).max() < 2, (
            "one level, and half of another's rounding"
        )


def test_agx_changes_the_colours(package, scene, saved, plate, face):
    """The tests above can fail: with AgX, the default of new files, colours differ visibly."""
    face()
    build(package, scene)
    scene.view_settings.view_transform = "AgX"
    seen = render(scene, saved / "out.png", 1)[..., :3]
    assert np.abs(seen[:, CLEAR] - plate[:, CLEAR].astype(int)).max() > 20


def test_a_view_transform_chosen_afterwards_is_kept(package, scene, face):
    face()
    build(package, scene)
    scene.view_settings.view_transform = "AgX"
    build(package, scene)
    assert scene.view_settings.view_transform == "AgX"


def test_a_rotated_photograph_is_composited_upright(package, scene, saved, face, plate, obj):
    """Blender ignores the EXIF orientation and the engine applies it."""
    grey = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None], (HEIGHT, 1, 3))
    grey[: HEIGHT // 4] //= 2
    lying = np.ones((WIDTH, HEIGHT, 4), np.float32)
    lying[..., :3] = np.rot90(grey)[::-1] / 255
    image = bpy.data.images.new("lying", HEIGHT, WIDTH)
    image.pixels.foreach_set(lying.ravel())
    image.filepath_raw, image.file_format = str(saved / "photo.jpg"), "JPEG"
    image.save(quality=100)
    bpy.data.images.remove(image)
    note = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # 90 degrees clockwise
    data = (saved / "photo.jpg").read_bytes()
    (saved / "photo.jpg").write_bytes(data[:2] + b"\xff\xe1\0" + bytes([len(note) + 2]) + note + data[2:])
    obj.edtalk.portrait_image = bpy.data.images.load(str(saved / "photo.jpg"))
    assert tuple(obj.edtalk.portrait_image.size) == (HEIGHT, WIDTH)
    assert package.character.files.portrait_size(obj) == (WIDTH, HEIGHT)

    strip = face()
    assert tuple(strip[package.render.face_strip.SIZE]) == (WIDTH, HEIGHT)
    assert strip.transform.scale_x == 1.0
    build(package, scene)
    seen = render(scene, saved / "out.png", 1)[..., :3]
    assert np.abs(seen[:, CLEAR] - grey[:, CLEAR].astype(int)).max() <= 8, "JPEG is lossy"
    shown = parts(package, build(package, scene), strip)["plate"].image
    package.plate.compositing.clear_unused()
    assert Path(bpy.path.abspath(shown.filepath)).is_file()


# --- The nodes


def test_the_generated_nodes(package, scene, obj, face):
    strip = face()
    scene.render.use_sequencer = True
    tree = build(package, scene)
    made = parts(package, tree, strip)
    assert set(made) == {"plate", "face", "group", "fit"}
    assert made["plate"].image == obj.edtalk.portrait_image
    assert (made["face"].frame_start, made["face"].frame_duration) == (1, FRAMES)
    assert made["group"].label == "Anna"
    assert all(socket.description for socket in made["group"].node_tree.interface.items_tree if socket.name == "Match")
    assert not scene.render.use_sequencer, "otherwise a render shows the sequencer"
    assert package.compat.compositor_output(tree).links[0].from_node == made["fit"]


def test_building_again_keeps_nodes_and_settings(package, scene, saved, face):
    strip = face()
    tree = build(package, scene)
    made = parts(package, tree, strip)
    made["group"].inputs["Grain"].default_value = 0.25
    made["group"].location = 700, 80
    links = len(tree.links)
    names = sorted(node.name for node in tree.nodes)
    tree = build(package, scene)
    assert sorted(node.name for node in tree.nodes) == names
    assert len(tree.links) == links
    assert parts(package, tree, strip)["group"].inputs["Grain"].default_value == 0.25
    assert tuple(parts(package, tree, strip)["group"].location) == (700, 80)
    assert sum(group.name.startswith("EDTalk Face") for group in bpy.data.node_groups) == 1


def test_the_artists_nodes_and_links_are_kept(package, scene, saved, face):
    face()
    tree = package.compat.ensure_compositor(scene)
    output = package.compat.compositor_output(tree)
    mine = tree.nodes.new("CompositorNodeBlur")
    mine.label = "mine"
    tree.links.new(mine.outputs[0], output)
    build(package, scene)
    output = package.compat.compositor_output(package.compat.compositor(scene))
    assert output.links[0].from_node.label == "mine"


def test_links_to_other_nodes_are_kept(package, scene, saved, face):
    strip = face()
    tree = build(package, scene)
    made = parts(package, tree, strip)
    glow = tree.nodes.new("CompositorNodeExposure")
    tree.links.new(made["group"].outputs["Image"], glow.inputs["Image"])
    tree.links.new(glow.outputs["Image"], made["fit"].inputs["Image"])
    tree = build(package, scene)
    assert parts(package, tree, strip)["fit"].inputs["Image"].links[0].from_node == glow


def viewers(tree):
    return [node for node in tree.nodes if node.bl_idname == "CompositorNodeViewer"]


def shown_by(package, tree):
    """The socket that the Viewer node shows, and the one that the output gets."""
    (viewer,) = viewers(tree)
    output = package.compat.compositor_output(tree)
    return viewer.inputs["Image"].links[0].from_socket, output.links[0].from_socket


def test_the_viewer_shows_the_result(package, scene, saved, face, obj):
    face()
    tree = build(package, scene)
    viewer, output = shown_by(package, tree)
    assert viewer == output
    ben = package.character.character.create(scene, str(saved / "plate.png"), name="Ben")
    ben.edtalk.layer = "plate"
    bpy.context.view_layer.objects.active = ben
    bpy.ops.edtalk.render_face(frames="SCENE")
    viewer, output = shown_by(package, build(package, scene))
    assert viewer == output, "also with a second face on top"


def test_the_artists_viewer_is_kept(package, scene, saved, face):
    face()
    tree = package.compat.ensure_compositor(scene)
    mine = tree.nodes.new("CompositorNodeViewer")
    build(package, scene)
    assert viewers(tree) == [mine]
    assert not mine.inputs["Image"].is_linked


def test_two_faces_over_one_plate(package, scene, saved, plate, face, obj, layer):
    face()
    build(package, scene)
    ben = package.character.character.create(scene, str(saved / "plate.png"), name="Ben")
    ben.edtalk.layer = "plate"
    bpy.context.view_layer.objects.active = ben
    bpy.ops.edtalk.render_face(frames="SCENE")
    (strip,) = package.timeline.sequencer.faces(scene, ben)
    second = layer(50)
    second[:, :32, 3], second[:, 32:, 3] = 255, 0
    for name in {element.filename for element in strip.elements}:
        write_png(package.render.face_strip.folder_of(strip) / name, second)
    tree = build(package, scene)
    assert sum(node.get("edtalk_part") == "plate" for node in tree.nodes) == 1
    seen = render(scene, saved / "out.png", 2)[..., :3]
    assert np.abs(seen[:, :32] - second[:, :32, :3].astype(int)).max() <= 1
    assert np.abs(seen[:, SOLID] - layer(2)[:, SOLID, :3].astype(int)).max() <= 1


def test_a_face_square_is_not_linked_to_the_output(package, scene, obj, face):
    obj.edtalk.layer = "square"
    strip = face()
    tree = build(package, scene)
    assert set(parts(package, tree, strip)) == {"face", "group", "fit"}


# --- Controls


def difference(package, scene, saved, face, layer, **controls):
    """(H, W, 3) change of levels in frame 2 where the matte is solid, when controls of the group are set."""
    strip = face()
    tree = build(package, scene)
    before = render(scene, saved / "out.png", 2)[..., :3]
    for name, value in controls.items():
        parts(package, tree, strip)["group"].inputs[name.replace("_", " ")].default_value = value
    after = render(scene, saved / "out.png", 2)[..., :3]
    assert (before[:, CLEAR] == after[:, CLEAR]).all(), "the plate is unchanged"
    return before, after


@pytest.mark.parametrize(
    "controls",
    [{"Exposure": 1.0}, {"Saturation": 0.0}, {"Match": 1.0}, {"Blur": 2.0}, {"Grain": 0.5}],
    ids=lambda controls: next(iter(controls)),
)
def test_each_control_changes_the_face_and_not_the_plate(package, scene, saved, face, layer, controls):
    before, after = difference(package, scene, saved, face, layer, **controls)
    assert np.abs(before[:, SOLID] - after[:, SOLID]).mean() > 2


def test_amount_0_shows_only_the_plate(package, scene, saved, face, layer, plate):
    _before, after = difference(package, scene, saved, face, layer, Amount=0.0)
    assert np.abs(after - plate.astype(int)).max() <= 1


def test_saturation_0_is_grey(package, scene, saved, face, layer):
    _before, after = difference(package, scene, saved, face, layer, Saturation=0.0)
    assert np.abs(after[:, SOLID] - after[:, SOLID, :1]).max() <= 1


def test_grain_changes_every_frame_but_not_between_renders(package, scene, saved, face):
    strip = face()
    for element in strip.elements:  # the same picture in every frame
        grey = np.full((HEIGHT, WIDTH, 4), 128, np.uint8)
        grey[..., 3] = 255
        write_png(package.render.face_strip.folder_of(strip) / element.filename, grey)
    tree = build(package, scene)
    parts(package, tree, strip)["group"].inputs["Grain"].default_value = 0.5
    first, second, again = (render(scene, saved / "out.png", frame) for frame in (1, 2, 1))
    assert (first == again).all()
    assert np.abs(first - second).mean() > 5
    assert abs(to_linear(first[..., :3]).mean() - to_linear(np.array(128))) < 0.02, "the mean brightness is unchanged"


def test_match_moves_colours_to_those_of_the_plate(package, scene, saved, face, obj, plate):
    """A face that is uniformly brighter than the plate gets the plate's brightness."""
    write_png(saved / "plate.png", np.full((HEIGHT, WIDTH, 3), (90, 120, 70), np.uint8))
    strip = face()
    bright = np.full((HEIGHT, WIDTH, 4), (150, 130, 140, 255), np.uint8)
    for element in strip.elements:
        write_png(package.render.face_strip.folder_of(strip) / element.filename, bright)
    tree = build(package, scene)
    obj.edtalk.portrait_image.reload()
    controls = parts(package, tree, strip)["group"].inputs
    controls["Match"].default_value, controls["Match Radius"].default_value = 1.0, 5.0
    inner = render(scene, saved / "out.png", 1)[16:32, 20:44, :3]
    assert np.abs(inner - (90, 120, 70)).max() <= 3
    controls["Match"].default_value = 0.5
    half = render(scene, saved / "out.png", 1)[16:32, 20:44, :3]
    assert (
        np.abs(half - to_levels((to_linear(np.array((90, 120, 70))) + to_linear(np.array((150, 130, 140)))) / 2)).max()
        <= 3
    )


# --- Updating


def test_frames_outside_the_strip_show_only_the_plate(package, scene, saved, plate, face):
    strip = face()
    package.compat.set_strip_value(strip, "content_start", 11)
    build(package, scene)
    for frame in (10, 15):
        assert np.abs(render(scene, saved / "out.png", frame)[..., :3] - plate.astype(int)).max() <= 1


def test_the_nodes_follow_a_moved_strip(package, scene, saved, layer, face):
    strip = face()
    build(package, scene)
    package.compat.set_strip_value(strip, "content_start", 21)
    package.follow.follow(scene)
    seen = render(scene, saved / "out.png", 23)[..., :3]
    assert np.abs(seen[:, SOLID] - layer(3)[:, SOLID, :3].astype(int)).max() <= 1


def test_newly_rendered_pictures_are_shown(package, scene, saved, obj, face):
    strip = face()
    build(package, scene)
    before = render(scene, saved / "out.png", 2)
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.7}, 2)
    bpy.ops.edtalk.render_face(frames="SCENE")
    name = strip.elements[1].filename
    picture = np.full((HEIGHT, WIDTH, 4), 200, np.uint8)
    write_png(package.render.face_strip.folder_of(strip) / name, picture)  # the same file by another name
    after = render(scene, saved / "out.png", 2)
    assert not (before == after).all()


def test_undoing_a_render_shows_the_earlier_frames(package, scene, saved, obj, face):
    strip = face()
    tree = build(package, scene)
    shown = parts(package, tree, strip)["face"].image.filepath
    names = [element.filename for element in strip.elements]
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.7}, 2)
    bpy.ops.edtalk.render_face(frames="SCENE")
    assert parts(package, tree, strip)["face"].image.filepath != shown
    package.compat.set_files(strip, names)  # like an undo
    package.handlers.settle_scene(scene, "undo")
    assert parts(package, tree, strip)["face"].image.filepath == shown


def test_clearing_deletes_unused_sequence_folders(package, scene, saved, obj, face):
    face()
    build(package, scene)
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.7}, 2)
    bpy.ops.edtalk.render_face(frames="SCENE")
    folder = package.folders.character_folder(obj) / "sequences"
    assert len(list(folder.iterdir())) == 2
    assert bpy.ops.edtalk.clear_cache() == {"FINISHED"}
    assert len(list(folder.iterdir())) == 1


def test_the_nodes_work_after_saving_moving_and_loading(package, scene, saved, obj, plate, layer, face):
    face()
    build(package, scene)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(saved / "shot.blend"))
    seen = render(bpy.context.scene, saved / "out.png", 2)[..., :3]
    assert np.abs(seen[:, SOLID] - layer(2)[:, SOLID, :3].astype(int)).max() <= 1


def test_building_can_be_undone(package, scene, saved, face):
    face()
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    build(package, scene)
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    tree = package.compat.compositor(scene)
    assert tree is None or not [node for node in tree.nodes if node.get("edtalk_part")]
    assert scene.render.use_sequencer


def test_a_disabled_button_gives_a_reason(package, scene, obj):
    operator = package.plate.operators.EDTALK_OT_build_compositor
    assert operator.disabled_reason(bpy.context) == "Render the face first"
    bpy.data.objects.remove(obj)
    assert "Add a character" in operator.disabled_reason(bpy.context)
