"""The release: same bytes on every day, and a repository from which Blender installs and updates the extension."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.package.conftest import ROOT, TOOL
from wheels import release

VERSION = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))["version"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs a git checkout: a release is built from a commit")
    folder = tmp_path_factory.mktemp("release") / "dist"
    release.build(folder, TOOL)
    return folder


def test_a_release_has_zip_repository_checksums_and_notes(made):
    sums = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert set(sums) == files - {"SHA256SUMS"}
    for name, expected in sums.items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == expected
    (entry,) = json.loads((made / "repository" / "index.json").read_text())["data"]
    name = f"edtalk-{VERSION}.zip"
    assert (entry["version"], entry["archive_url"]) == (VERSION, f"./{name}")
    assert entry["archive_hash"] == f"sha256:{sums[name]}"
    assert f"./{name}?repository=" in (made / "repository" / "index.html").read_text(encoding="utf-8")
    assert (made / "RELEASE_NOTES.md").read_text(encoding="utf-8").startswith(f"# EDTalk Talking Faces {VERSION}\n")


def test_the_same_commit_gives_the_same_bytes_on_another_day(made, tmp_path, monkeypatch):
    check_out = release._check_out

    def later(folder: Path) -> None:
        """The same files with other times and permissions, listed in another order."""
        check_out(folder)
        for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
            path.chmod(0o700)
            os.utime(path, (1_900_000_000 + number, 1_900_000_000 + number))

    monkeypatch.setattr(release, "_check_out", later)
    release.build(tmp_path / "dist", TOOL)
    for path in (path for path in made.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "dist" / path.relative_to(made)).read_bytes(), path.name


def test_the_zip_is_the_one_of_blenders_tool_without_its_times(made):
    with zipfile.ZipFile(made / f"edtalk-{VERSION}.zip") as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {release.TIME}
    assert {entry.external_attr >> 16 for entry in entries if not entry.is_dir()} == {0o100644}


def test_notes_come_from_the_changelog():
    log = "# Changelog\n\n## [Unreleased]\n\n{}## [1.1.0] - 2026-12-01\n\n- new\n\n## [1.0.0]\n\n- old\n"
    assert "- new" in release.release_notes(log.format(""), "1.1.0")
    assert "- old" not in release.release_notes(log.format(""), "1.1.0")
    assert "- soon" in release.release_notes(log.format("- soon\n\n"), "1.2.0")
    with pytest.raises(SystemExit, match=r"no section for 1\.2\.0"):
        release.release_notes(log.format(""), "1.2.0")


def test_a_placeholder_as_website_is_noticed():
    assert release.website_missing({})
    assert release.website_missing({"website": "https://edtalk.example/"})
    assert not release.website_missing({"website": "https://blender.org/edtalk"})


SCRIPT = """
import json, os, sys, time, tomllib
from pathlib import Path
import bpy

url, marker = sys.argv[1:]
bpy.context.preferences.system.use_online_access = True
repos = bpy.context.preferences.extensions.repos
for remote in [repo for repo in repos if repo.use_remote_url]:
    repos.remove(remote)  # no test uses the network
repo = repos.new(name="EDTalk", module="edtalk_page", remote_url=url)
index = list(repos).index(repo)
module = "bl_ext.edtalk_page.edtalk"

def version():
    folder = Path(bpy.utils.user_resource("EXTENSIONS")) / "edtalk_page" / "edtalk"
    return tomllib.loads((folder / "blender_manifest.toml").read_text())["version"]

bpy.ops.extensions.repo_sync_all(use_active_only=False)
bpy.ops.extensions.package_install(repo_index=index, pkg_id="edtalk", enable_on_install=True)
result = {"installed": version(), "enabled": module in bpy.context.preferences.addons}
print("INSTALLED", flush=True)
while not os.path.exists(marker):
    time.sleep(0.1)
bpy.ops.extensions.repo_sync_all(use_active_only=False)
bpy.ops.extensions.package_upgrade_all(use_active_only=False)
result |= {"updated": version(), "operators": len(dir(bpy.ops.edtalk))}
print("RESULT " + json.dumps(result), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_blender_installs_and_updates_from_the_repository(made, tmp_path):
    pages, marker = tmp_path / "pages", tmp_path / "published"
    shutil.copytree(made / "repository", pages)
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(tmp_path / "user")}
    command = [sys.executable, "-c", SCRIPT, (pages / "index.json").as_uri(), str(marker)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as blender:
        output = ""
        for line in blender.stdout:
            output += line
            if line.startswith("INSTALLED"):
                publish(pages, "99.0.0")
                marker.touch()
    results = [line for line in output.splitlines() if line.startswith("RESULT ")]
    assert results, output
    result = json.loads(results[0].removeprefix("RESULT "))
    assert (result["installed"], result["enabled"], result["updated"]) == (VERSION, True, "99.0.0"), output
    assert result["operators"] > 10


def publish(pages: Path, version: str) -> None:
    """Replace the release in a repository by a later one."""
    (old,) = pages.glob("*.zip")
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(pages / f"edtalk-{version}.zip", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "blender_manifest.toml":
                data = data.replace(f'version = "{VERSION}"'.encode(), f'version = "{version}"'.encode())
            target.writestr(name, data)
    old.unlink()
    release.index(pages, TOOL)
