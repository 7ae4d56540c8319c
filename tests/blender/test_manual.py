"""Help buttons and Blender's *Online Manual* lead to pages of the manual in the extension."""

import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import bpy
import pytest

from tests.panel_layout import draw
from tests.unit.test_manual import FOLDER, PAGES, Page


@pytest.fixture
def panels(package) -> list[type[bpy.types.Panel]]:
    found = package.preferences._tabbed()
    assert len(found) > 12
    return found


def check(target: str) -> None:
    name, _, anchor = target.partition("#")
    assert (FOLDER / name).is_file(), f"{target} does not exist"
    assert not anchor or anchor in Page(FOLDER / name).anchors, f"{target} has no such anchor"


def test_every_panel_has_a_help_button(panels, obj):
    for panel in panels:
        check(panel.help_page)
        layout = draw(panel)
        assert layout is None or "edtalk.open_manual" in layout.texts("operator"), panel.__name__


def test_the_help_button_opens_the_page_in_the_browser(package, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert bpy.ops.edtalk.open_manual(page="render.html#disk") == {"FINISHED"}
    (url,) = map(urlparse, opened)
    assert (url.scheme, url.fragment) == ("file", "disk")
    assert Path(url2pathname(url.path)).samefile(FOLDER / "render.html")


def test_a_missing_page_is_reported(package):
    with pytest.raises(RuntimeError, match=r"none\.html does not exist"):
        bpy.ops.edtalk.open_manual(page="none.html")


def blender_finds(name: str) -> str:
    """The page that *Online Manual* opens for a property or operator, with its anchor."""
    url = bpy.types.WM_OT_doc_view_manual._lookup_rna_url(name, verbose=False)
    assert url is not None, f"{name} has no page"
    return unquote(url).rpartition("/docs/manual/")[2]


def test_blender_finds_a_page_for_every_operator(package):
    for name in dir(bpy.ops.edtalk):
        check(blender_finds(f"bpy.ops.edtalk.{name}"))


def test_blender_finds_a_page_for_every_setting(package):
    for module in package.modules():
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, bpy.types.PropertyGroup | bpy.types.AddonPreferences):
                for name in cls.__annotations__:
                    check(blender_finds(f"bpy.types.{cls.__name__}.{name}"))


def test_no_pattern_is_hidden_by_an_earlier_one(package):
    """The first pattern that fits is used, so each must be the first for something."""
    names = [f"bpy.ops.edtalk.{name}" for name in dir(bpy.ops.edtalk)]
    groups = (bpy.types.PropertyGroup, bpy.types.AddonPreferences)
    for cls in {cls for module in package.modules() for cls in vars(module).values() if isinstance(cls, type)}:
        if issubclass(cls, groups):
            names += [f"bpy.types.{cls.__name__}.{name}" for name in cls.__annotations__]
    used = set(map(blender_finds, names))
    assert {page for _pattern, page in package.panels.help.PAGES} == used


def test_every_button_is_explained(package):
    """Each operator's label is in the manual, apart from those that only close or cancel something."""
    text = " ".join(path.read_text(encoding="utf-8") for path in PAGES).lower().replace("\n", " ")
    labels = {getattr(bpy.ops.edtalk, name).get_rna_type().name for name in dir(bpy.ops.edtalk)}
    obvious = {"Cancel", "Dismiss", "Manual", "Update Sliders"}
    assert [label for label in sorted(labels - obvious) if label.lower() not in text] == []
