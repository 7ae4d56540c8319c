"""Builds a release from the last commit: the zip, a static extension repository, checksums and release notes.

    python -m wheels release                 into dist/
    python -m wheels release --out FOLDER --tool .../scripts/addons_core/bl_pkg/cli/blender_ext.py

    FOLDER/edtalk-VERSION.zip        to install from disk
    FOLDER/repository/               the zip, index.json and index.html, for a web server or file://
    FOLDER/RELEASE_NOTES.md          this version's section of CHANGELOG.md
    FOLDER/SHA256SUMS                of all files above

Blender's own tool builds and validates the zip and the index; it is found in .venv/blender-*, which setup.sh makes. The
same commit gives the same bytes on every day and computer: the zip is packed again with sorted names, fixed times and
permissions, and without compression, whose result depends on the version of zlib.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can store
PLACEHOLDER = ".example"  # a top-level domain that never exists
_TOOL = "scripts/addons_core/bl_pkg/cli/blender_ext.py"
_TAGS = {"add-on": ["Animation", "Sequencer"], "theme": []}


def build(out: Path, tool: Path) -> Path:
    """Write a release into a folder, whose content is replaced. Returns the zip.

    Raises SystemExit with a sentence if git or Blender's tool fail, or the version has no notes.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, made, tags = Path(folder, "source"), Path(folder, "made.zip"), Path(folder, "tags.json")
        tags.write_text(json.dumps(_TAGS))
        _check_out(source)
        manifest = tomllib.loads((source / "blender_manifest.toml").read_text(encoding="utf-8"))
        notes = release_notes((source / "CHANGELOG.md").read_text(encoding="utf-8"), manifest["version"])
        _run(tool, "build", "--source-dir", source, "--output-filepath", made, "--valid-tags", tags)
        shutil.rmtree(out, ignore_errors=True)
        (out / "repository").mkdir(parents=True)
        extension = out / f"{manifest['id']}-{manifest['version']}.zip"
        repack(made, extension)
    shutil.copyfile(extension, out / "repository" / extension.name)
    index(out / "repository", tool)
    (out / "RELEASE_NOTES.md").write_text(notes, encoding="utf-8", newline="\n")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8", newline="\n")
    if website_missing(manifest):
        print("The website in blender_manifest.toml is a placeholder: set it before you publish this release.")
    return extension


def index(folder: Path, tool: Path) -> None:
    """Write index.json and index.html for the zips in a folder."""
    _run(tool, "server-generate", "--repo-dir", folder, "--html", "--html-template", HERE / "repository.html")


def website_missing(manifest: dict[str, object]) -> bool:
    """Whether the manifest has no website or a placeholder."""
    website = str(manifest.get("website", "")).rstrip("/")
    return not website or website.endswith(PLACEHOLDER)


def repack(source: Path, target: Path) -> None:
    """Copy a zip so that its bytes depend only on names and contents of the files in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system = 3  # Unix, on every computer
            entry.external_attr = (0o40755 << 16) | 0x10 if name.endswith("/") else 0o100644 << 16
            new.writestr(entry, old.read(name))


def release_notes(changelog: str, version: str) -> str:
    """The section of a version, or "Unreleased" if it has none yet. Raises SystemExit if both are missing or empty."""
    found = re.finditer(r"(?ms)^## \[(.+?)\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog)
    sections = {match[1]: match[2].strip() for match in found}
    text = sections.get("Unreleased") or sections.get(version)
    if not text:
        raise SystemExit(f"CHANGELOG.md has no section for {version}.")
    return f"# EDTalk Talking Faces {version}\n\n{text}\n"


def find_tool() -> Path | None:
    """Blender's tool for extensions in the newest Blender of .venv, None if there is none."""
    packages = [path for name in ("lib/python*", "Lib") for path in ROOT.glob(f".venv/blender-*/{name}/site-packages")]
    return max((tool for path in packages for tool in path.glob(f"bpy/*/{_TOOL}")), default=None)


def _check_out(folder: Path) -> None:
    """Write the files of the last commit into a folder."""
    try:
        command = ["git", "-c", "core.autocrlf=false", "archive", "--format=tar", "HEAD"]
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"A release needs a git checkout with a commit: {error}.") from error
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def _run(tool: Path, *arguments: str | Path) -> None:
    command = [sys.executable, str(tool), *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"Blender's tool for extensions failed:\n{answer.stdout}{answer.stderr}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wheels release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help="default: dist")
    parser.add_argument("--tool", type=Path, metavar="FILE", help="Blender's blender_ext.py")
    options = parser.parse_args(arguments)
    tool = options.tool or find_tool()
    if tool is None or not tool.is_file():
        raise SystemExit(
            f"{tool or '.venv/blender-*'} does not exist: run setup.sh, or name blender_ext.py with --tool."
        )
    extension = build(options.out.resolve(), tool)
    print(f"wrote {extension} ({extension.stat().st_size / 1e6:.1f} MB), {extension.parent / 'repository'}")
