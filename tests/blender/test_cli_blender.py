"""The command line `blender --command edtalk`: the whole workflow, exit codes and errors."""

import json

import bpy
import pytest

from tests.strip_material import noise, write_sound


@pytest.fixture
def edtalk(package, capsys):
    """`edtalk("render", "--range", "scene")`: the exit code and the output."""

    def run(*arguments):
        capsys.readouterr()
        code = package.cli.main([str(argument) for argument in arguments])
        return code, "".join(capsys.readouterr())

    return run


def test_the_whole_workflow(package, edtalk, fake_engine, tmp_path, demo):
    fake_engine()
    blend, movie = tmp_path / "shot.blend", tmp_path / "shot.mp4"
    sound = write_sound(tmp_path / "line.wav", noise(0.5))
    assert edtalk("--save-as", blend, "add-character", demo / "portrait_1.png", "--name", "Anna")[0] == 0
    assert blend.is_file()
    at = ("--blend", blend)
    code, output = edtalk(*at, "--save", "lip-sync", "--sound", sound, "--frame", 5)
    assert (code, "Lip-synced 'line'" in output) == (0, True)
    code, output = edtalk(*at, "--save", "render")
    assert (code, "frames rendered, 0 already rendered" in output) == (0, True)
    bpy.context.scene.render.resolution_x = bpy.context.scene.render.resolution_y = 64
    bpy.ops.wm.save_mainfile()
    assert edtalk(*at, "export", movie)[0] == 0
    assert movie.stat().st_size > 1000
    code, output = edtalk(*at, "status")
    status = json.loads(output[output.index("{") :])
    (anna,) = status["characters"]
    assert (anna["name"], anna["dialogue"], anna["faces"]["Anna face"]["waiting"]) == ("Anna", ["line"], 0)
    assert status["out of place"] == []
    code, output = edtalk(*at, "render")
    assert ": 0 frames rendered," in output


def test_strips_of_the_scene_are_lip_synced_to_the_only_character(package, scene, edtalk, fake_engine, obj, tmp_path):
    fake_engine()
    sound = write_sound(tmp_path / "line.wav", noise(0.5))
    for number in range(2):
        package.compat.new_sound(scene, f"line {number}", sound, 1, 10 + 50 * number)
    assert edtalk("lip-sync", "--strip", "line 1")[0] == 0
    assert [strip.name for strip in package.timeline.sequencer.dialogue(scene, obj)] == ["line 1"]
    assert edtalk("lip-sync", "--character", "Anna")[0] == 0
    assert len(package.timeline.sequencer.dialogue(scene, obj)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lip-sync",), 1, "no sound strip"),
        (("lip-sync", "--character", "Nobody"), 1, "no character named 'Nobody'. Choose one of: 'Anna'"),
        (("lip-sync", "--sound", "gone.wav"), 1, "gone.wav does not exist"),
        (("lip-sync", "--strip", "gone"), 1, "no sound strip named 'gone'"),
        (("render", "--range", "preview"), 1, "no preview range"),
        (("render", "--range", "everything"), 2, "invalid choice"),
        (("add-character", "gone.png"), 1, "gone.png"),
        (("--blend", "gone.blend", "status"), 1, "gone.blend does not exist"),
        (("--scene", "gone", "status"), 1, "no scene named 'gone'"),
        (("export", "nowhere/out.mp4"), 1, "does not exist"),
        (("--save", "status"), 1, "not been saved yet"),
        ((), 2, "COMMAND"),
    ],
)
def test_errors_give_an_exit_code_and_one_message(edtalk, obj, arguments, code, message):
    found, output = edtalk(*arguments)
    assert found == code
    assert message in output
    assert "Traceback" not in output


def test_help_exits_with_0(edtalk):
    code, output = edtalk("--help")
    assert code == 0
    assert "lip-sync" in output


def test_an_error_of_one_strip_does_not_stop_the_others(package, scene, edtalk, fake_engine, obj, tmp_path):
    fake_engine()
    good, bad = (write_sound(tmp_path / name, noise(0.5)) for name in ("good.wav", "bad.wav"))
    for number, path in enumerate((bad, good)):
        package.timeline.sequencer.assign(package.compat.new_sound(scene, path.stem, path, 1 + number, 10), obj)
    bad.unlink()
    code, output = edtalk("lip-sync")
    assert (code, "bad.wav" in output) == (1, True)
    assert package.compat.fcurves(obj)
