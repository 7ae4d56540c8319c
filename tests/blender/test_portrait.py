"""Measuring portraits: requested once, and applied only if the portrait is still the same."""

import struct
from types import SimpleNamespace

import bpy
import numpy as np
import pytest


@pytest.fixture
def requested(package, addon, monkeypatch):
    """Requests to an engine that answers only on `requested[-1].answer(jawOpen=0.25)`."""
    questions = []

    def submit(request, *, label, on_done):
        def answer(**rest):
            task.finished = True
            pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
            on_done(addon.inference.contract.answers.PortraitResult(rest, "none", 0.0, pixels))

        def cancel():
            task.finished = task.cancelled = True

        task = SimpleNamespace(request=request, label=label, finished=False, cancelled=False, error=None, cancel=cancel)
        task.answer = answer
        questions.append(task)
        return task

    monkeypatch.setattr(package.engine.session, "submit", submit)
    return questions


def test_choosing_a_portrait_measures_it(package, obj, requested, demo):
    package.character.rest_pose.measure(obj)
    (question,) = requested
    bank = package.character.files.bank_of(obj)
    assert question.request.kind == "portrait"
    assert question.request.to_message(1).fields == {
        "bank": str(bank.path),
        "picture": str(demo / "portrait_1.png"),
        "crop": "auto",
    }
    obj.edtalk.crop_mode, obj.edtalk.crop = "box", (1.0, 2.0, 64.0)
    package.character.rest_pose.measure(obj)
    assert requested[-1].request.crop == (1.0, 2.0, 64.0)


def test_the_result_is_applied_once(package, obj, requested):
    assert not package.character.rest_pose.is_known(obj)
    task = package.character.rest_pose.measure(obj)
    assert package.character.rest_pose.measure(obj) == task, "the running task"
    requested[0].answer(jawOpen=0.25, headYaw=-0.5)
    assert (obj.edtalk["jawOpen"], obj.edtalk["headYaw"]) == (0.25, -0.5)
    assert package.character.rest_pose.is_known(obj)
    assert len(requested) == 1
    assert obj.data == package.character.viewport.face_image(obj), "the measured face is shown"


def test_changing_the_portrait_replaces_the_measurement(package, obj, requested, demo):
    package.character.rest_pose.measure(obj)
    obj.edtalk.portrait = str(demo / "portrait_2.png")
    package.character.rest_pose.measure(obj)
    first, second = requested
    assert first.cancelled
    first.answer(jawOpen=0.25)
    assert obj.edtalk["jawOpen"] == 0.0, "an outdated result is dropped"
    second.answer(jawOpen=0.5)
    assert obj.edtalk["jawOpen"] == 0.5
    obj.edtalk.portrait = str(demo / "portrait_1.png")
    assert not package.character.rest_pose.is_known(obj)


def test_the_character_may_be_renamed_or_deleted_before_the_result_arrives(package, scene, obj, requested):
    import bpy

    package.character.rest_pose.measure(obj)
    obj.name = "Somebody"
    requested[0].answer(jawOpen=0.25)
    assert obj.edtalk["jawOpen"] == 0.25
    other = package.character.character.create(scene, obj.edtalk.portrait)
    package.character.rest_pose.measure(other)
    bpy.data.objects.remove(other)
    requested[1].answer(jawOpen=0.75)
    assert obj.edtalk["jawOpen"] == 0.25


def test_measuring_a_missing_portrait_is_an_error(addon, package, scene, requested, demo, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes((demo / "portrait_1.png").read_bytes())
    obj = package.character.character.create(scene, str(path))
    path.unlink()
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="does not exist"):
        package.character.rest_pose.measure(obj)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="does not exist"):
        package.character.rest_pose.is_known(obj)
    assert requested == []


def test_with_a_window_a_chosen_portrait_is_measured_at_once(package, obj, requested, demo, monkeypatch):
    obj.edtalk.portrait = str(demo / "portrait_2.png")
    assert requested == [], "without a window nothing is requested yet"
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    obj.edtalk.portrait = str(demo / "portrait_1.png")
    obj.edtalk.crop_mode = "none"
    assert [task.request.crop for task in requested] == ["auto", "none"]
    assert [task.cancelled for task in requested] == [True, False]


@pytest.mark.parametrize("letters", [251, 240, 100, 60])
def test_a_portrait_with_a_long_name_is_rendered(package, scene, demo, tmp_path, fake_engine, letters):
    fake_engine()
    work, pictures = tmp_path / "work", tmp_path / "pictures"
    work.mkdir()
    pictures.mkdir()
    picture = pictures / ("p" * letters + ".png")
    picture.write_bytes((demo / "portrait_1.png").read_bytes())
    bpy.ops.wm.save_as_mainfile(filepath=str(work / "n.blend"))
    scene = bpy.context.scene
    scene.frame_start = scene.frame_end = 1
    obj = package.character.character.create(scene, str(picture))
    (plan,) = package.cli.render_faces(scene, [obj], "SCENE").values()
    assert plan.missing == 1
    written = [path.relative_to(work) for path in work.rglob("*")]
    assert max(len(str(path)) for path in written) < 200, "leaves 59 letters for the project's folder in Windows"


# --- Formats that the engine does not read


def open_exr(path, light):
    """Write (H, W, 4) float32, top row first and premultiplied, as an OpenEXR picture without compression."""
    height, width, _ = light.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + b"\0" + struct.pack("<iB3xii", 2, 0, 1, 1) for name in (b"A", b"B", b"G", b"R")) + b"\0"
    attributes = [(b"channels", b"chlist", channels), (b"compression", b"compression", b"\0"),
                  (b"dataWindow", b"box2i", window), (b"displayWindow", b"box2i", window),
                  (b"lineOrder", b"lineOrder", b"\0"), (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
                  (b"screenWindowCenter", b"v2f", bytes(8)),
                  (b"screenWindowWidth", b"float", struct.pack("<f", 1))]  # fmt: skip
    head = struct.pack("<II", 20000630, 2)
    for name, kind, value in attributes:
        head += name + b"\0" + kind + b"\0" + struct.pack("<I", len(value)) + value
    size = 16 * width
    first = len(head) + 1 + 8 * height
    offsets = struct.pack(f"<{height}Q", *(first + row * (8 + size) for row in range(height)))
    rows = [struct.pack("<iI", y, size) + light[y, :, ::-1].T.astype("<f4").tobytes() for y in range(height)]
    path.write_bytes(head + b"\0" + offsets + b"".join(rows))
    return path


def radiance(path, light):
    """Write (H, W, 3) float32, top row first, as a Radiance HDR picture."""
    mantissa, exponent = np.frexp(light.max(axis=2))
    scale = np.where(light.max(axis=2) > 0, mantissa * 256 / np.maximum(light.max(axis=2), 1e-9), 0)
    pixels = np.dstack([light * scale[..., None], np.where(scale > 0, exponent + 128, 0)]).astype(np.uint8)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {light.shape[0]} +X {light.shape[1]}\n"
    path.write_bytes(head.encode() + pixels.tobytes())
    return path


def float_tiff(path, light):
    """Write (H, W, 3) float32, top row first, as a TIFF of one strip."""
    height, width, _ = light.shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 20),
            (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, light.nbytes), (339, 3, 3, 14)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = struct.pack("<2sHI6H", b"II", 42, 20 + light.nbytes, 32, 32, 32, 3, 3, 3)
    end = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(start + light.astype("<f4").tobytes() + end)
    return path


@pytest.mark.parametrize("suffix", [".exr", ".hdr", ".tif"])
def test_a_portrait_in_floating_point_is_given_to_the_engine_in_8_bits(package, scene, tmp_path, suffix):
    light = np.ones((4, 6, 4), np.float32)
    light[..., :3] = np.array([0.0, 0.0025, 0.2159, 1.0, 4.0, 0.5])[:, None]
    light[0, :, :3] = 0.2159
    path = tmp_path / f"face{suffix}"
    {".exr": open_exr, ".hdr": lambda path, light: radiance(path, light[..., :3]),
     ".tif": lambda path, light: float_tiff(path, light[..., :3])}[suffix](path, light)  # fmt: skip
    obj = package.character.character.create(scene, str(path), name="Anna")
    if suffix == ".tif":
        obj.edtalk.portrait_image.colorspace_settings.name = "Linear Rec.709"
    copy = package.character.files.portrait_path(obj)
    assert copy.read_bytes()[:4] == b"\x89PNG"
    levels = np.array(bpy.data.images.load(str(copy)).pixels).reshape(4, 6, 4)[::-1] * 255
    assert np.abs(levels[0, :, :3] - 128).max() <= 1, "the rows are in their order"
    assert np.abs(levels[1:, :, 0] - [0, 8, 128, 255, 255, 188]).max() <= 1
    assert package.character.files.portrait_size(obj) == (6, 4)
    assert package.character.files.portrait_path(obj) == copy
    assert package.character.snapshot.read(obj).portrait == copy


def test_a_cut_out_portrait_keeps_its_alpha(package, scene, tmp_path):
    light = np.full((4, 6, 4), 0.5, np.float32)
    light[..., :3] *= 0.2159
    light[0] = 0
    obj = package.character.character.create(scene, str(open_exr(tmp_path / "face.exr", light)))
    shown = bpy.data.images.load(str(package.character.files.portrait_path(obj)))
    levels = np.array(shown.pixels).reshape(4, 6, 4)[::-1] * 255
    assert np.abs(levels[1:] - 128).max() <= 1
    assert levels[0, :, 3].max() == 0


def test_other_portraits_are_used_as_they_are(package, obj, demo):
    assert package.character.files.portrait_path(obj) == demo / "portrait_1.png"


def test_a_character_whose_portrait_the_engine_refuses_is_removed(package, addon, scene, demo, requested, monkeypatch):
    error = addon.inference.contract.errors.EDTalkError

    def refuse(*_tasks):
        raise error("no face")

    monkeypatch.setattr(package.engine.session, "wait", refuse)
    before = set(bpy.data.objects), set(bpy.data.images)
    with pytest.raises(error, match="no face"):
        package.cli.add_character(scene, demo / "portrait_1.png")
    assert (set(bpy.data.objects), set(bpy.data.images)) == before
