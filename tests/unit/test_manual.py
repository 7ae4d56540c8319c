"""The pages of docs/manual: complete, linked, readable without a network, and small."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "manual"
PAGES = sorted(FOLDER.glob("*.html"))
MOST_IMAGES = 2_000_000  # bytes, so that the extension stays a small download
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a page links to, its anchors, and whether its elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.alternatives: list[str | None] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], f"{path.name}: {self.open} not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.targets += [target for name in ("href", "src") if (target := values.get(name))]
        self.anchors |= {anchor for anchor in [values.get("id")] if anchor}
        self.alternatives += [values.get("alt")] if tag == "img" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"{tag} is closed but not open"
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files_and_anchors_of_the_manual(path: Path) -> None:
    page = Page(path)
    assert "style.css" in page.targets
    for target in page.targets:
        name, _, anchor = unquote(target).partition("#")
        assert ":" not in name, f"{target} needs a network"
        file = FOLDER / (name or path.name)
        assert file.is_file(), f"{target} does not exist"
        assert file.resolve().is_relative_to(FOLDER), f"{target} is not part of the manual"
        assert not anchor or anchor in Page(file).anchors, f"{target} has no such anchor"
    assert all(page.alternatives), "every image needs a text"


def test_the_contents_list_every_page() -> None:
    listed = set(Page(FOLDER / "index.html").targets)
    assert {path.name for path in PAGES} - listed == {"index.html"}


def test_images_are_small_and_all_are_used() -> None:
    images = sorted((FOLDER / "images").iterdir())
    assert sum(image.stat().st_size for image in images) <= MOST_IMAGES
    used = {target for path in PAGES for target in Page(path).targets if target.startswith("images/")}
    assert {f"images/{image.name}" for image in images} == used


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_task_has_a_picture(path: Path) -> None:
    assert Page(path).alternatives or path.stem in ("glossary", "command-line")
