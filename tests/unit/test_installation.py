"""Installing the engine from a folder, an archive or an index, with cancels and errors. Uses no network."""

import hashlib
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path, PureWindowsPath

import pytest
from edtalk.edtalk_blender.engine import engine, gpu, installation, interpreters, lock
from edtalk.edtalk_blender.engine.engine import State, find
from edtalk.edtalk_blender.engine.installation import Installation
from edtalk.inference.contract.errors import EDTalkError

from tests.engine_material import (
    LOCK,
    line,
    make_environment,
    make_python,
    make_root,
    make_wheel,
    recorded_calls,
    stamp,
)

pytestmark = pytest.mark.slow

PATIENCE = 300.0  # seconds, for a virtual environment on a busy machine

posix = pytest.mark.skipif(os.name == "nt", reason="stands in for Python with a script")


@pytest.fixture(autouse=True)
def small_engine(monkeypatch):
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    monkeypatch.setattr(installation, "SPARE", 10**6)  # bytes; the engine of these tests is small
    monkeypatch.setattr(lock, "here", lambda: "linux-x86_64")
    monkeypatch.setattr(gpu, "probe", lambda: [])


@pytest.fixture
def root(tmp_path) -> Path:
    """An extension whose engine has one small package."""
    return make_root(tmp_path / "an extension", line(make_wheel(tmp_path)))


@pytest.fixture
def fake_python(tmp_path) -> Path:
    return make_python(tmp_path)


def make_wheels(folder: Path) -> Path:
    make_wheel(folder)
    return folder


def finish(installation: Installation) -> Installation:
    installation.start()
    assert installation.wait(PATIENCE)
    return installation


# ------------------------------------------------------------------------------------------------ from a folder


def test_install_from_a_folder_with_the_real_venv_and_pip(root, tmp_path):
    user = tmp_path / "user's ünfolder"
    wheels = make_wheels(tmp_path / "packages")
    done = finish(Installation(root, user, wheels=wheels, python=Path(sys.executable)))
    assert done.error is None
    assert done.phase == "done"
    assert "Unpacked tiny" in done.log.tail
    assert "passed" in done.log.tail
    assert any("--no-index" in output for output in done.log.tail)
    assert any("--require-hashes" in output for output in done.log.tail)
    found = find(root, user)
    assert (found.state, found.origin, found.made_from) == (State.READY, "installed", LOCK.as_posix())

    (user / "weights.safetensors").touch()
    (user / "installer").mkdir()
    engine.uninstall(user)
    assert find(root, user).state is State.MISSING
    until = time.monotonic() + PATIENCE
    while len(list(user.iterdir())) > 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert {path.name for path in user.iterdir()} == {"weights.safetensors", "engine-installation.log"}


@posix
def test_a_failed_repair_leaves_an_incomplete_engine_with_the_reason(root, tmp_path, fake_python):
    make_environment(tmp_path / "user" / "engine", stamp(root))
    assert find(root, tmp_path / "user").state is State.READY
    (tmp_path / "pip").write_text("print('ERROR: No matching distribution found for tiny==1.0'); sys.exit(1)")
    wheels = make_wheels(tmp_path / "packages")
    failed = finish(Installation(root, tmp_path / "user", wheels=wheels, python=fake_python))
    assert failed.error.message.endswith("could not be installed: No matching distribution found for tiny==1.0.")
    assert failed.error.hint
    found = find(root, tmp_path / "user")
    assert found.state is State.INCOMPLETE
    assert "tiny==1.0" in found.reason
    (tmp_path / "pip").write_text("")
    assert finish(Installation(root, tmp_path / "user", wheels=wheels, python=fake_python)).error is None
    assert find(root, tmp_path / "user").state is State.READY
    assert [path.name for path in (tmp_path / "user").iterdir() if path.name.startswith("engine.")] == []


@posix
def test_a_wrong_file_is_named_and_the_old_engine_is_kept(root, tmp_path, fake_python):
    make_environment(tmp_path / "user" / "engine", stamp(root))
    other = make_wheel(tmp_path / "packages", content="import socket")
    failed = finish(Installation(root, tmp_path / "user", wheels=other.parent, python=fake_python))
    assert failed.error.kind == "checksum"
    assert str(other) in failed.error.message
    assert hashlib.sha256(other.read_bytes()).hexdigest()[:12] in failed.error.message
    assert failed.error.hint
    assert not (tmp_path / "calls").exists(), "pip was not started"
    assert find(root, tmp_path / "user").state is State.READY


def test_pip_checks_the_checksums_again(root, tmp_path, monkeypatch):
    """A file that changes after the installer's own check is refused."""
    good = make_wheel(tmp_path / "good")
    hashes = lock.hashes
    monkeypatch.setattr(
        lock,
        "hashes",
        lambda folder, pattern="*.whl": (
            {hashlib.sha256(good.read_bytes()).hexdigest(): good} if pattern == "*.whl" else hashes(folder, pattern)
        ),
    )
    spoilt = make_wheel(tmp_path / "packages", content="import socket").parent
    failed = finish(Installation(root, tmp_path / "user", wheels=spoilt, python=Path(sys.executable)))
    assert failed.error.kind == "checksum"
    assert "tiny-1.0-py3-none-any.whl has the wrong checksum" in failed.error.message
    assert find(root, tmp_path / "user").state is State.INCOMPLETE


@posix
def test_missing_packages_of_a_folder_are_counted_and_named(root, tmp_path, fake_python):
    (root / LOCK).write_text(f"{(root / LOCK).read_text()}big==3.2 --hash=sha256:{'3' * 64}\n")
    failed = finish(Installation(root, tmp_path / "user", wheels=make_wheels(tmp_path / "w"), python=fake_python))
    assert f"1 of 2 packages for {LOCK.stem} are missing: big==3.2." in failed.error.message
    assert "README" in failed.error.hint


@posix
def test_with_auto_a_folder_is_installed_for_the_backend_it_is_complete_for(root, tmp_path, fake_python):
    """A folder from a computer with a graphics card, on a computer without one."""
    wheels = tmp_path / "packages"
    (root / LOCK).with_name(LOCK.name.replace("cpu", "cuda")).write_text(line(make_wheel(wheels, "big")) + "\n")
    assert finish(Installation(root, tmp_path / "user", wheels=wheels, python=fake_python)).error is None
    assert find(root, tmp_path / "user").made_from.endswith(LOCK.name.replace("cpu", "cuda"))
    chosen = Installation(root, tmp_path / "user", wheels=wheels, python=fake_python, backend="cpu")
    assert "tiny==1.0" in finish(chosen).error.message


@posix
def test_install_from_an_archive(root, tmp_path, fake_python):
    """Wheels in any folder of it; no other file is written, and none outside of the downloads."""
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(make_wheel(tmp_path), "../../from elsewhere/tiny-1.0-py3-none-any.whl")
        packed.writestr("../evil.py", "")
    user = tmp_path / "user"
    assert finish(Installation(root, user, wheels=archive, python=fake_python)).error is None
    assert find(root, user).state is State.READY
    assert [path.name for path in (user / "downloads").iterdir()] == ["tiny-1.0-py3-none-any.whl"]
    assert not list(tmp_path.rglob("evil.py"))


@posix
def test_a_damaged_archive_is_reported(root, tmp_path, fake_python):
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("tiny-1.0-py3-none-any.whl", "x" * 1000)
    archive.write_bytes(archive.read_bytes().replace(b"x" * 100, b"y" * 100, 1))
    failed = finish(Installation(root, tmp_path / "user", wheels=archive, python=fake_python))
    assert failed.error.kind == "checksum"
    assert f"{archive} is damaged" in failed.error.message
    archive.write_bytes(b"no archive")
    with pytest.raises(EDTalkError, match=r"packages\.zip contains no Python packages"):
        Installation(root, tmp_path / "user", wheels=archive).start()


# ------------------------------------------------------------------------------------------------ what cannot begin


def test_without_online_access_nothing_is_downloaded(root, tmp_path):
    with pytest.raises(EDTalkError) as caught:
        Installation(root, tmp_path / "user").start()
    assert caught.value.kind == "offline"
    assert "Allow Online Access" in caught.value.hint
    assert not (tmp_path / "user").exists()


def test_start_raises_if_the_options_do_not_allow_an_installation(root, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EDTalkError, match=r"empty contains no Python packages"):
        Installation(root, tmp_path / "user", wheels=tmp_path / "empty").start()
    with pytest.raises(EDTalkError, match=r"installer\.txt does not exist"):
        Installation(tmp_path, tmp_path / "user", online=True).start()
    with pytest.raises(EDTalkError, match="the address of a package index"):
        Installation(root, tmp_path / "user", online=True, backend="other").start()
    with pytest.raises(
        EDTalkError, match=r"NVIDIA.* on linux-x86_64 with Python 3\.\d+\. Choose the CPU or another graphics card"
    ):
        Installation(root, tmp_path / "user", online=True, backend="cuda").start()
    monkeypatch.setattr(lock, "here", lambda: "amiga-m68k")
    with pytest.raises(EDTalkError, match=r"amiga-m68k with Python 3\.\d+\. Choose an existing Python"):
        Installation(root, tmp_path / "user", online=True).start()
    assert not (tmp_path / "user").exists()


def test_without_a_python_it_fails(root, tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "find", lambda: None)
    failed = finish(Installation(root, tmp_path / "user", online=True))
    assert "cannot be run on its own" in failed.error.message
    assert "Install Python" in failed.error.hint
    assert find(root, tmp_path / "user").state is State.MISSING  # nothing was changed


def test_paths_on_windows(monkeypatch):
    """The extension's own folder is too deep for torch's files there, the engine's is not."""
    user = PureWindowsPath("C:/", "Users", "Maximiliane.Mustermann-Meier")
    own = PureWindowsPath(user, "AppData/Roaming/Blender Foundation/Blender/5.2/extensions/.user/user_default/edtalk")
    monkeypatch.setattr(engine, "_WINDOWS", True)
    monkeypatch.setenv("LOCALAPPDATA", str(user / "AppData" / "Local"))
    engines = {str(engine.place(Path(str(own).replace("5.2", version)))) for version in ("5.1", "5.2")}
    assert len(engines) == 2, "one for each version of Blender"
    assert engine.place(Path(str(own))) == engine.place(Path(str(own).upper())), "case does not count on Windows"
    assert installation.excess(own / "engine") > 0
    for folder in engines:
        assert installation.excess(PureWindowsPath(folder.replace("/", "\\"))) <= 0
    monkeypatch.delenv("LOCALAPPDATA")
    assert engine.place(Path("own")) == Path("own", "engine")


def test_too_little_disk_space(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(installation, "SPARE", 3 * 10**9)
    failed = finish(Installation(root, tmp_path / "user", online=True, python=Path(sys.executable)))
    assert failed.error.kind == "disk"
    assert "needs 3.0 GB of disk space" in failed.error.message
    assert "has 2.0 GB free" in failed.error.message


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/torch-2.0-py3-none-any.whl", bytes(10**7))
    with pytest.raises(EDTalkError, match="far more than its own size"):
        installation._unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheels.zip", "w") as archive:
        archive.writestr("torch-2.0-py3-none-any.whl", bytes(10**6))
    usage = shutil.disk_usage(tmp_path)._replace(free=installation.SPARE + 10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EDTalkError, match="of disk space") as refused:
        installation._unpack(tmp_path / "wheels.zip", tmp_path / "out")
    assert refused.value.kind == "disk"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_created(root, tmp_path):
    (tmp_path / "user").touch()
    failed = finish(Installation(root, tmp_path / "user", online=True, python=Path(sys.executable)))
    assert failed.error.kind == "disk"
    assert str(tmp_path / "user") in failed.error.message


# ------------------------------------------------------------------------------------------------ from an index


@posix
def test_online_it_uses_the_index_and_tries_twice(root, tmp_path, fake_python):
    user = tmp_path / "user"
    assert finish(Installation(root, user, online=True, python=fake_python)).error is None
    assert find(root, user).state is State.READY
    downloads = recorded_calls(tmp_path, " download ")
    assert len(downloads) == 1
    assert "--no-index" not in downloads[0]
    assert "--require-hashes" in downloads[0]
    engine.remove_downloads(user)
    (tmp_path / "pip").write_text(
        "if download: print('ReadTimeoutError: Read timed out.'); print('ERROR: gave up'); sys.exit(1)"
    )
    failed = finish(Installation(root, user, online=True, python=fake_python))
    assert failed.error.kind == "network"
    assert "gave up" in failed.error.message
    assert len(recorded_calls(tmp_path, " download ")) == 2
    (tmp_path / "pip").write_text("print('OSError: [Errno 28] No space left on device'); sys.exit(1)")
    assert finish(Installation(root, user, online=True, python=fake_python)).error.kind == "disk"


@posix
def test_the_old_engine_stays_until_all_packages_are_downloaded(root, tmp_path, fake_python):
    python = make_environment(tmp_path / "user" / "engine", stamp(root))
    (tmp_path / "pip").write_text("if download: print('ERROR: gave up'); sys.exit(1)")
    assert finish(Installation(root, tmp_path / "user", online=True, python=fake_python)).error
    found = find(root, tmp_path / "user")
    assert (found.state, found.python) == (State.READY, python)
    assert not (tmp_path / "user" / "installer").exists()


@posix
def test_finished_downloads_are_kept_after_cancel_and_used_again(tmp_path, fake_python):
    """Large packages are downloaded one by one; the progress includes earlier downloads."""
    wheels = [make_wheel(tmp_path / "index", name) for name in ("tiny", "big", "huge")]
    root = make_root(tmp_path / "extension", *map(line, wheels, (0, 20 * 10**6, 30 * 10**6)))
    (tmp_path / "pip").write_text(
        "if download and 'huge==1.0' in wanted:\n"
        "    print('Progress 15000000 of 30000000', flush=True)\n"
        "    time.sleep(600)\n"
    )
    user = tmp_path / "user"
    begun = Installation(root, user, online=True, python=fake_python)
    begun.start()
    until = time.monotonic() + PATIENCE
    while begun.done < 35:  # tiny, big, and half of huge
        assert time.monotonic() < until
        time.sleep(0.01)
    assert (begun.phase, begun.done, begun.total, begun.unit) == ("downloading", 35, 50, " MB")
    assert not any("Progress" in output for output in begun.log.tail)
    begun.cancel()
    assert begun.wait(PATIENCE)
    assert begun.cancelled
    assert begun.error is None
    assert find(root, user).state is State.MISSING
    assert {path.name.split("-")[0] for path in (user / "downloads").iterdir()} == {"tiny", "big"}
    assert engine.downloaded(user) == sum(wheel.stat().st_size for wheel in wheels[:2])
    names = [call.partition(" for ")[2] for call in recorded_calls(tmp_path, " download ")]
    assert names == ["tiny==1.0", "big==1.0", "huge==1.0"]

    (user / "downloads" / wheels[0].name).write_bytes(b"cut short")
    (tmp_path / "pip").write_text("")
    assert finish(Installation(root, user, online=True, python=fake_python)).error is None
    names = [call.partition(" for ")[2] for call in recorded_calls(tmp_path, " download ")]
    assert names == ["tiny==1.0", "huge==1.0"]
    assert find(root, user).state is State.READY


@posix
def test_mirror_and_torch_index_are_passed_to_the_right_calls_of_pip(root, tmp_path, fake_python):
    (root / LOCK).write_text(f"{(root / LOCK).read_text()}torch==2.0+cpu --hash=sha256:{'7' * 64}\n")
    mirror, index = "https://anna:secret@mirror.example/simple", "https://torch.example/whl"
    user = tmp_path / "user"
    options = {"online": True, "python": fake_python, "mirror": f" {mirror} ", "torch_index": index}
    assert finish(Installation(root, user, **options)).error is None
    for call in recorded_calls(tmp_path, " download "):
        assert f"--index-url {mirror} --extra-index-url {index}" in call
    assert "secret" not in (user / "engine-installation.log").read_text()
    assert finish(Installation(root, user, backend="other", **options)).error is None
    calls = recorded_calls(tmp_path, "")
    assert not any("torch==2.0+cpu" in call for call in calls)
    torch = [call for call in calls if "torch==2.0" in call]
    assert len(torch) == 2
    assert f"--index-url {index}" in torch[0]
    assert "--no-index" in torch[1], "it is installed from the downloads"
    assert not any(mirror in call or "--require-hashes" in call for call in torch)
    assert all("--require-hashes" in call for call in calls if call not in torch)


@posix
def test_a_download_with_a_wrong_checksum_is_one_sentence(root, tmp_path, fake_python):
    output = [
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package",
        "    tiny==1.0 from https://mirror.example/tiny-1.0-py3-none-any.whl#sha256=aaaa (from -r w.txt (line 1)):",
        f"        Expected sha256 {'1' * 64}",
        f"             Got        {'2' * 64}",
    ]
    (tmp_path / "pip").write_text(f"if download: print(*{output!r}, sep=chr(10)); sys.exit(1)")
    failed = finish(Installation(root, tmp_path / "user", online=True, python=fake_python))
    assert failed.error.kind == "checksum"
    assert (
        "tiny-1.0-py3-none-any.whl has the wrong checksum: expected 111111111111..., found 222222222222..."
        in failed.error.message
    )
    assert "\n" not in failed.error.message
    assert "Mirror" in failed.error.hint


@posix
def test_if_the_index_has_no_cpu_torch_the_hint_names_other_backends(root, tmp_path, fake_python):
    output = "ERROR: No matching distribution found for torch==2.0+cpu"
    (tmp_path / "pip").write_text(f"if download: print({output!r}); sys.exit(1)")
    failed = finish(Installation(root, tmp_path / "user", online=True, python=fake_python))
    assert failed.error.kind == "torch"
    assert "torch==2.0+cpu" in failed.error.message
    assert "Torch Index" in failed.error.hint


@posix
def test_cancel_kills_the_processes_and_marks_the_engine_incomplete(root, tmp_path, fake_python):
    """Including child processes of pip."""
    (tmp_path / "pip").write_text(
        """
if " install " in arguments:
    pid = os.fork()
    if pid:
        (here / "pid").write_text(str(pid))
        print("Installing", flush=True)
    time.sleep(600)
"""
    )
    begun = Installation(root, tmp_path / "user", online=True, python=fake_python)
    begun.start()
    until = time.monotonic() + PATIENCE
    while "Installing" not in begun.log.tail:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert (begun.phase, begun.done, begun.total) == ("checking packages", 1, 1)
    assert not begun.finished
    begun.cancel()
    assert begun.wait(PATIENCE)
    assert begun.cancelled
    assert begun.error is None
    found = find(root, tmp_path / "user")
    assert found.state is State.INCOMPLETE
    assert "cancelled" in found.reason
    pid = int((tmp_path / "pid").read_text())
    while (process := Path(f"/proc/{pid}/stat")).exists() and process.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


@posix
def test_the_old_engine_is_removed_only_after_may_replace(root, tmp_path, fake_python):
    user = tmp_path / "user"
    python = make_environment(user / "engine", stamp(root))
    begun = Installation(root, user, online=True, python=fake_python, hold=True)
    begun.start()
    until = time.monotonic() + PATIENCE
    while begun.phase != installation.REPLACING:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert python.exists()
    assert find(root, user).state is State.READY
    begun.cancel()
    assert begun.wait(PATIENCE)
    assert find(root, user).python == python, "cancelled before the replacement"
    begun = Installation(root, user, online=True, python=fake_python, hold=True)
    begun.start()
    begun.may_replace.set()
    assert begun.wait(PATIENCE)
    assert begun.error is None
    assert find(root, user).state is State.READY
    assert recorded_calls(tmp_path, " install "), "a new engine was installed"


@posix
def test_a_repair_with_complete_downloads_uses_no_index(root, tmp_path, fake_python):
    user = tmp_path / "user"
    assert finish(Installation(root, user, online=True, python=fake_python)).error is None
    assert len(recorded_calls(tmp_path, " download ")) == 1
    assert finish(Installation(root, user, online=True, python=fake_python)).error is None
    assert all("--no-index" in call for call in recorded_calls(tmp_path, ""))
