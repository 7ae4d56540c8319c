"""The engine's environment: found, installed offline from a folder, interrupted, repaired, reported. No network."""

import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest
from edtalk.edtalk_blender.core import engine
from edtalk.edtalk_blender.core.engine import Installation, State, find, interpreter, requirements_hash
from edtalk.inference.errors import EDTalkError

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds, for a virtual environment on a busy machine

posix = pytest.mark.skipif(os.name == "nt", reason="stands in for Python with a script")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    monkeypatch.setattr(engine, "NEEDED", 10**6)  # bytes: the engine of these tests is small


@pytest.fixture
def root(tmp_path) -> Path:
    """An extension whose engine needs one tiny package, and whose self-test imports it."""
    return make_root(tmp_path / "an extension")


def make_root(folder: Path) -> Path:
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "requirements-worker.txt").write_text("# what inference/ imports\ntiny==1.0\n")
    (folder / "inference").mkdir()
    (folder / "inference" / "__init__.py").touch()
    (folder / "inference" / "__main__.py").write_text(
        "import sys, tiny\nassert sys.argv[1:] == ['selftest']\nprint('all is well')\n"
    )
    return folder


def make_wheels(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    return folder


def make_environment(folder: Path, stamp: str | None = None) -> Path:
    """What `find` looks at."""
    python = interpreter(folder)
    python.parent.mkdir(parents=True)
    python.touch()
    python.chmod(0o755)
    if stamp is not None:
        (folder / ".stamp").write_text(f"{stamp}  -\n")
    return python


def finish(installation: Installation) -> Installation:
    installation.start()
    assert installation.wait(PATIENCE)
    return installation


# ------------------------------------------------------------------------------------------------ finding


def test_nothing_is_missing_and_says_what_to_press(root, tmp_path):
    found = find(root, tmp_path / "user")
    assert found.state is State.MISSING
    assert found.python is None
    assert "Install" in found.hint
    assert not (tmp_path / "user").exists()
    with pytest.raises(EDTalkError, match="not installed"):
        found.command()


def test_the_installed_engine_is_as_good_as_its_stamp(root, tmp_path):
    folder = tmp_path / "user" / "engine"
    python = make_environment(folder)
    assert find(root, tmp_path / "user").state is State.INCOMPLETE  # no stamp
    (folder / ".stamp").write_text(requirements_hash(root))
    found = find(root, tmp_path / "user")
    assert (found.state, found.python, found.reason) == (State.READY, python, "")
    assert found.command("--device", "cpu")[1:] == ("-X", "utf8", "-m", "inference", "worker", "--device", "cpu")
    (root / "wheels" / "requirements-worker.txt").write_text("tiny==2.0\n")
    found = find(root, tmp_path / "user")
    assert found.state is State.OUTDATED
    assert found.usable
    assert "another version" in found.reason
    (folder / ".incomplete").write_text("the disk was full.")
    found = find(root, tmp_path / "user")
    assert found.state is State.INCOMPLETE
    assert "the disk was full." in found.reason
    assert "Repair" in found.hint
    (folder / ".incomplete").unlink()
    python.unlink()
    found = find(root, tmp_path / "user")
    assert found.state is State.BROKEN
    assert str(python) in found.reason
    assert not found.usable


def test_what_is_chosen_comes_first_and_is_taken_or_refused(root, tmp_path, monkeypatch):
    installed = make_environment(tmp_path / "user" / "engine", requirements_hash(root))
    studio, mine = make_environment(tmp_path / "studio"), make_environment(tmp_path / "mine")
    assert find(root, tmp_path / "user").python == installed
    checkout = make_environment(root / ".venv" / "worker")
    assert find(root, tmp_path / "user").origin == "checkout"
    monkeypatch.setenv(engine.VARIABLE, str(studio))
    assert find(root, tmp_path / "user").python == studio
    found = find(root, tmp_path / "user", str(tmp_path / "mine"))
    assert (found.state, found.python, found.origin) == (State.READY, mine, "preferences")
    assert find(root, tmp_path / "user", mine).python == mine
    found = find(root, tmp_path / "user", tmp_path / "nowhere")
    assert (found.state, found.python) == (State.BROKEN, None)
    assert "nowhere" in found.reason
    assert found.hint
    monkeypatch.setenv(engine.VARIABLE, str(tmp_path / "gone"))
    assert engine.VARIABLE in find(root, tmp_path / "user").reason
    assert checkout.exists()


def test_a_checkout_is_stamped_as_setup_does_it(root, tmp_path):
    make_environment(root / ".venv" / "worker", "0" * 64)
    (root / "wheels" / "requirements-development.txt").write_text("pytest\n")
    found = find(root, tmp_path)
    assert found.state is State.OUTDATED
    assert "setup.sh" in found.hint
    files = [Path("wheels", f"requirements-{name}.txt") for name in ("worker", "development")]
    (root / ".venv" / "worker" / ".stamp").write_text(requirements_hash(root, *files) + "  -\n")
    assert find(root, tmp_path).state is State.READY


def test_finding_python_asks_candidates_for_their_version(monkeypatch, tmp_path):
    found = engine.find_python()
    if found:
        assert found.is_file()
    monkeypatch.setattr(engine, "PYTHON", (3, 99))
    assert engine.find_python() is None
    monkeypatch.setattr(engine, "PYTHON", sys.version_info[:2])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.find_python() == Path(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "blender"))  # never started as if it were Python
    assert engine.find_python() is None


# ------------------------------------------------------------------------------------------------ installing


def test_installed_from_a_folder_by_the_real_venv_and_pip(root, tmp_path):
    user = tmp_path / "user's ünfolder"
    wheels = make_wheels(tmp_path / "packages")
    installation = finish(Installation(root, user, wheels=wheels, python=Path(sys.executable)))
    assert installation.error is None
    assert (installation.phase, installation.total) == ("done", 1)
    assert "all is well" in installation.log.tail
    assert any("--no-index" in line for line in installation.log.tail)
    found = find(root, user)
    assert (found.state, found.origin) == (State.READY, "installed")

    (user / "weights.safetensors").touch()
    engine.uninstall(user)
    assert find(root, user).state is State.MISSING
    until = time.monotonic() + PATIENCE
    while len(list(user.iterdir())) > 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert {path.name for path in user.iterdir()} == {"weights.safetensors", "engine-installation.log"}


@posix
def test_a_repair_that_fails_leaves_no_engine_that_looks_like_one_and_says_why(root, tmp_path, fake_python):
    make_environment(tmp_path / "user" / "engine", requirements_hash(root))
    assert find(root, tmp_path / "user").state is State.READY
    (tmp_path / "pip").write_text("print('ERROR: No matching distribution found for tiny==1.0'); sys.exit(1)")
    wheels = make_wheels(tmp_path / "packages")
    installation = finish(Installation(root, tmp_path / "user", wheels=wheels, python=fake_python))
    assert installation.error.message.endswith("could not be installed: No matching distribution found for tiny==1.0.")
    assert installation.error.hint
    found = find(root, tmp_path / "user")
    assert found.state is State.INCOMPLETE
    assert "tiny==1.0" in found.reason
    (tmp_path / "pip").write_text("")
    assert finish(Installation(root, tmp_path / "user", wheels=wheels, python=fake_python)).error is None
    assert find(root, tmp_path / "user").state is State.READY
    assert [path.name for path in (tmp_path / "user").iterdir() if path.name.startswith("engine.")] == []


def test_without_leave_nothing_is_downloaded(root, tmp_path):
    with pytest.raises(EDTalkError) as caught:
        Installation(root, tmp_path / "user").start()
    assert caught.value.kind == "offline"
    assert "Allow Online Access" in caught.value.hint
    assert not (tmp_path / "user").exists()


def test_what_cannot_begin_says_so_at_once(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EDTalkError, match=r"empty holds no Python packages"):
        Installation(root, tmp_path / "user", wheels=tmp_path / "empty").start()
    with pytest.raises(EDTalkError, match=r"requirements-worker\.txt does not exist"):
        Installation(tmp_path, tmp_path / "user", online=True).start()


def test_no_python_and_no_uv(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "")
    installation = finish(Installation(root, tmp_path / "user", online=True))
    assert "Python 3.11 with its venv module was not found" in installation.error.message
    assert "uv" in installation.error.hint
    assert find(root, tmp_path / "user").state is State.MISSING  # nothing was touched


def test_too_little_disk(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(engine, "NEEDED", 3 * 10**9)
    installation = finish(Installation(root, tmp_path / "user", online=True, python=Path(sys.executable)))
    assert installation.error.kind == "disk"
    assert "needs 3.0 GB of disk" in installation.error.message
    assert "has 2.0 GB left" in installation.error.message


def test_a_folder_that_cannot_be_made(root, tmp_path):
    (tmp_path / "user").touch()
    installation = finish(Installation(root, tmp_path / "user", online=True, python=Path(sys.executable)))
    assert installation.error.kind == "disk"
    assert str(tmp_path / "user") in installation.error.message


@pytest.fixture
def fake_python(tmp_path) -> Path:
    """A program that makes "environments" with itself inside; what its pip does is the text of the file `pip`."""
    path = tmp_path / "python3.11"
    path.write_text(
        f"""#!{sys.executable}
import os, pathlib, shutil, sys, time
arguments = " ".join(sys.argv[1:])
if "-m venv" in arguments:
    folder = pathlib.Path(sys.argv[-1]) / "bin"
    folder.mkdir()
    shutil.copy(__file__, folder / "python")
elif "-m pip" in arguments:
    print("Collecting tiny==1.0", flush=True)
    exec((pathlib.Path({str(tmp_path)!r}) / "pip").read_text())
"""
    )
    path.chmod(0o755)
    (tmp_path / "pip").write_text("")
    return path


@posix
def test_online_it_asks_the_index_and_tries_twice(root, tmp_path, fake_python):
    installation = finish(Installation(root, tmp_path / "user", online=True, python=fake_python))
    assert installation.error is None
    assert find(root, tmp_path / "user").state is State.READY
    assert not any("--no-index" in line for line in installation.log.tail)
    (tmp_path / "pip").write_text("print('ReadTimeoutError: Read timed out.'); print('ERROR: gave up'); sys.exit(1)")
    installation = finish(Installation(root, tmp_path / "user", online=True, python=fake_python))
    assert installation.error.kind == "network"
    assert "gave up" in installation.error.message
    assert sum("Collecting" in line for line in installation.log.tail) == 2
    (tmp_path / "pip").write_text("print('OSError: [Errno 28] No space left on device'); sys.exit(1)")
    assert finish(Installation(root, tmp_path / "user", online=True, python=fake_python)).error.kind == "disk"


@posix
def test_cancel_kills_what_runs_and_leaves_a_mark(root, tmp_path, fake_python):
    """Also what the step itself has started."""
    (tmp_path / "pip").write_text(
        f"""
pid = os.fork()
if pid:
    pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(pid))
    print("Downloading", flush=True)
time.sleep(600)
"""
    )
    installation = Installation(root, tmp_path / "user", online=True, python=fake_python)
    installation.start()
    until = time.monotonic() + PATIENCE
    while "Downloading" not in installation.log.tail:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert (installation.phase, installation.done, installation.total) == ("installing packages", 1, 1)
    assert not installation.finished
    installation.cancel()
    assert installation.wait(PATIENCE)
    assert installation.cancelled
    assert installation.error is None
    found = find(root, tmp_path / "user")
    assert found.state is State.INCOMPLETE
    assert "cancelled" in found.reason
    pid = int((tmp_path / "pid").read_text())
    while (process := Path(f"/proc/{pid}/stat")).exists() and process.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


@posix
def test_where_there_is_no_python_uv_brings_one(root, tmp_path, fake_python, monkeypatch):
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f"""#!{sys.executable}
import os, pathlib, sys
with open({str(tmp_path / "calls")!r}, "a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[1] == "venv":
    os.execv({str(fake_python)!r}, ["python", "-m", "venv", sys.argv[-1]])
"""
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent))
    monkeypatch.setattr(sys, "executable", "")
    wheels = make_wheels(tmp_path / "packages")
    assert finish(Installation(root, tmp_path / "user", wheels=wheels)).error is None
    venv, install = (tmp_path / "calls").read_text().splitlines()
    assert "--python 3.11" in venv
    assert "--offline" in venv
    assert "--offline" in install
    assert "--no-index" in install
    assert finish(Installation(root, tmp_path / "user", online=True)).error is None
    assert "--offline" not in " ".join((tmp_path / "calls").read_text().splitlines()[2:])


# ------------------------------------------------------------------------------------------------ reporting


def test_a_report_says_everything_but_whose_home_it_is(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    failure = EDTalkError("The engine crashed with a segmentation fault.", "Try again.", "crash")
    text = engine.report(find(root, tmp_path / "user"), {"Blender": "5.0.1"}, failure, ["one", "two"])
    for words in ("Blender          5.0.1", "not installed", "crash: The engine crashed", "one\ntwo", "GB", "~"):
        assert words in text
    assert str(tmp_path) not in text
