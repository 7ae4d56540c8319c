"""A bank path relative to the .blend stays valid in other folders and on other systems."""

import bpy
import pytest


@pytest.fixture
def package(addon):
    return addon.edtalk_blender


@pytest.fixture
def bank(package, obj, write_bank, tmp_path):
    """The bank of Anna, `//banks/own.safetensors` of the .blend in folder "a"."""
    (tmp_path / "a" / "banks").mkdir(parents=True)
    (tmp_path / "b" / "deep").mkdir(parents=True)
    path = write_bank("own").rename(tmp_path / "a" / "banks" / "own.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a" / "shot.blend"))
    package.character.character.set_bank(obj, "//banks/own.safetensors")
    bpy.ops.wm.save_mainfile()
    return path


def anna():
    return bpy.data.objects["Anna"]


def found(package):
    return package.character.files.bank_path(anna()).resolve()


def test_save_as_into_another_folder_remaps_the_path(package, bank, tmp_path):
    path = str(tmp_path / "b" / "deep" / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    assert anna().edtalk.bank == "//../../a/banks/own.safetensors"
    bpy.ops.wm.open_mainfile(filepath=path)
    assert found(package) == bank


def test_saving_a_copy_changes_only_the_copy(package, bank, tmp_path):
    path = str(tmp_path / "b" / "copy.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    assert anna().edtalk.bank == "//banks/own.safetensors"
    bpy.ops.wm.open_mainfile(filepath=path)
    assert found(package) == bank


def test_saving_in_the_same_folder_keeps_the_path(bank, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a" / "second.blend"))
    assert anna().edtalk.bank == "//banks/own.safetensors"


@pytest.mark.parametrize("saved", [True, False])
def test_an_appended_character_finds_its_bank(package, bank, tmp_path, saved):
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    if saved:
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "new.blend"))
    with bpy.data.libraries.load(str(tmp_path / "a" / "shot.blend"), relative=saved) as (_there, here):
        here.objects = ["Anna"]
    assert anna().library is None
    assert found(package) == bank
    assert anna().edtalk.bank.startswith("//") == saved


@pytest.mark.parametrize("saved", [True, False])
def test_a_linked_character_that_is_made_local_finds_its_bank(package, bank, tmp_path, saved):
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    if saved:
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "new.blend"))
    with bpy.data.libraries.load(str(tmp_path / "a" / "shot.blend"), link=True, relative=saved) as (_there, here):
        here.objects = ["Anna"]
    bpy.context.scene.collection.objects.link(here.objects[0])
    bpy.context.view_layer.update()
    assert found(package) == bank
    anna().make_local()
    bpy.context.view_layer.update()
    assert anna().library is None
    assert found(package) == bank
    assert anna().edtalk.bank.startswith("//") == saved


def test_a_path_from_windows_is_found(package, bank):
    anna().edtalk.bank = "//banks\\own.safetensors"
    assert found(package) == bank


def test_the_path_of_a_missing_bank_is_kept(bank, tmp_path):
    bank.unlink()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "shot.blend"))
    assert anna().edtalk.bank == "//banks/own.safetensors"
