"""The lock files of this repository, and how they are read and chosen."""

import hashlib
import re
from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine import lock
from edtalk.inference.contract.errors import EDTalkError

from tests.engine_material import LOCK, make_root, make_wheel

ROOT = Path(__file__).parents[2]
PLACES = {
    "linux-x86_64": ["cpu", "cuda", "cuda-old", "other"],
    "windows-x86_64": ["cpu", "other"],
    "macos-arm64": ["mps"],
}
PYTHONS = [(3, 11), (3, 13), (3, 14)]  # of Blender 4.5 and 5.0, of 5.1 and 5.2, and of Linux distributions
OLD = {"torch": "2.7.1", "triton": "3.3.1"}  # other versions in the lock for older cards
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def offered(place: str, python: tuple[int, int]) -> list[str]:
    """The last PyTorch for older cards has no packages for Python 3.14."""
    return [backend for backend in PLACES[place] if (backend, python) != ("cuda-old", (3, 14))]


def locks() -> list[tuple[str, str, tuple[int, int]]]:
    return [(place, backend, python) for place in PLACES for python in PYTHONS for backend in offered(place, python)]


def test_the_platforms_backends_and_pythons_with_a_lock():
    for place in PLACES:
        for python in PYTHONS:
            assert lock.offered(ROOT, place, python) == offered(place, python)
    assert lock.offered(ROOT, "windows-arm64", (3, 11)) == []
    assert lock.offered(ROOT, "linux-x86_64", (3, 12)) == []


@pytest.mark.parametrize(("place", "backend", "python"), locks())
def test_each_lock_is_complete(place, backend, python):
    """It has each requirement once, with its version, one checksum and the size."""
    read = lock.read(ROOT, backend, place, python)
    versions = {package.name: package.version for package in read.packages}
    assert len(versions) == len(read.packages)
    for line in (ROOT / "wheels" / "requirements-worker.txt").read_text().splitlines():
        if match := re.match(r"([\w-]+)==([\w.]+)", line):
            name, version = match.groups()
            found = read.unlocked.partition("==")[2] if name == "torch" and backend == "other" else versions[name]
            assert found.partition("+")[0] == (OLD.get(name, version) if backend == "cuda-old" else version)
    assert all(len(package.hashes) == 1 and package.size > 0 for package in read.packages)
    assert 10**8 < read.size < 10**10


def test_all_locks_have_the_same_versions():
    """So that the frames of a farm look the same on all platforms. Older cards have another torch."""
    found: dict[str, set[str]] = {}
    for place, backend, python in locks():
        for package in lock.read(ROOT, backend, place, python).packages:
            version = package.version.partition("+")[0]
            if backend == "cuda-old" and package.name in OLD:
                assert version == OLD[package.name]
            else:
                found.setdefault(package.name, set()).add(version)
    assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}


def test_only_cuda_locks_have_nvidia_packages():
    for place, backend, python in locks():
        packages = lock.read(ROOT, backend, place, python).packages
        brought = any(package.name.startswith("nvidia-") for package in packages)
        assert brought == (backend in ("cuda", "cuda-old"))


def test_the_pip_of_the_extension_is_the_locked_one(tmp_path):
    wheel = lock.pip(ROOT)
    assert wheel.parent == ROOT / "wheels"
    root = make_root(tmp_path / "e")
    (root / "wheels" / wheel.name).write_bytes(b"cut off")
    with pytest.raises(EDTalkError, match=r"pip-.*\.whl is missing or damaged"):
        lock.pip(root)


def test_no_lock_has_an_address():
    for file in (ROOT / lock.LOCKS).iterdir():
        assert "://" not in file.read_text(encoding="utf-8")
        assert "index-url" not in file.read_text(encoding="utf-8")


def test_a_lock_is_read(tmp_path):
    root = make_root(
        tmp_path / "e", f"a-b==1.0+cpu --hash=sha256:{A} --hash=sha256:{B}  # 12 bytes", "", f"c==2 --hash=sha256:{C}"
    )
    read = lock.read(root, "cpu", "linux-x86_64")
    assert read.file == LOCK
    assert [str(package) for package in read.packages] == [
        f"a-b==1.0+cpu --hash=sha256:{A} --hash=sha256:{B}",
        f"c==2 --hash=sha256:{C}",
    ]
    assert read.size == 12


def test_for_another_card_torch_has_a_version_but_no_checksum(tmp_path):
    root = make_root(
        tmp_path / "e", f"numpy==2 --hash=sha256:{A}  # 5 bytes", f"torch==2.1+cpu --hash=sha256:{B}  # 7 bytes"
    )
    read = lock.read(root, "other", "linux-x86_64")
    assert (read.unlocked, read.size, [package.name for package in read.packages]) == ("torch==2.1", 5, ["numpy"])


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy==2",
        f"numpy>=2 --hash=sha256:{A}",
        f"numpy==2 --hash=sha256:{A[1:]}",
        "--index-url https://x.example",
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line_number(tmp_path, line):
    root = make_root(tmp_path / "e", line)
    with pytest.raises(EDTalkError, match=r"linux-x86_64-cpu-py3\d+\.txt, line 2,"):
        lock.read(root, "cpu", "linux-x86_64")


def test_an_unavailable_backend_is_refused_with_the_available_ones(tmp_path):
    root = make_root(tmp_path / "e")
    with pytest.raises(
        EDTalkError, match=r"Apple graphics on linux-x86_64 with Python 3\.\d+\. Choose the CPU or another"
    ):
        lock.read(root, "mps", "linux-x86_64")
    with pytest.raises(EDTalkError, match=r"on macos-x86_64 with Python 3\.\d+\. Choose an existing Python"):
        lock.read(root, "cpu", "macos-x86_64")


def test_files_are_identified_by_content_not_by_name(tmp_path):
    wheel = make_wheel(tmp_path / "w")
    (tmp_path / "w" / "notes.txt").touch()
    found = lock.hashes(tmp_path / "w")
    assert found == {hashlib.sha256(wheel.read_bytes()).hexdigest(): wheel}
    fits = lock.Package("tiny", "1.0", (A, *found), 1)
    lacks = lock.Package("tiny", "1.0", (A, B), 1)
    assert lock.missing([fits, lacks], found) == [lacks]
    assert lock.hashes(tmp_path / "nothing") == {}
