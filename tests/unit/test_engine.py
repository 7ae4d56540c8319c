"""Finding, checking and reporting the engine's environment. Uses no network."""

from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine import engine
from edtalk.edtalk_blender.engine.engine import State, find
from edtalk.inference.contract.errors import EDTalkError

from tests.engine_material import LOCK, make_environment, make_root, stamp


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv(engine.VARIABLE, raising=False)


@pytest.fixture
def root(tmp_path) -> Path:
    return make_root(tmp_path / "an extension", "tiny==1.0")


# ------------------------------------------------------------------------------------------------ finding


def test_without_an_engine_the_hint_is_to_install_it(root, tmp_path):
    found = find(root, tmp_path / "user")
    assert found.state is State.MISSING
    assert found.python is None
    assert "Install" in found.hint
    assert not (tmp_path / "user").exists()
    with pytest.raises(EDTalkError, match="not installed"):
        found.command()


def test_the_state_of_an_installed_engine_follows_from_its_files(root, tmp_path):
    folder = tmp_path / "user" / "engine"
    python = make_environment(folder)
    assert find(root, tmp_path / "user").state is State.INCOMPLETE  # no stamp
    (folder / ".stamp").write_text(stamp(root))
    found = find(root, tmp_path / "user")
    assert (found.state, found.python, found.reason) == (State.READY, python, "")
    assert found.made_from == LOCK.as_posix()
    assert found.command("--device", "cpu")[1:] == ("-X", "utf8", "-m", "inference", "worker", "--device", "cpu")
    (root / LOCK).write_text("tiny==2.0\n")
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
    python.touch(mode=0o755)
    (folder / "pyvenv.cfg").write_text(f"home = {tmp_path / 'gone'}\nversion = 3.11\n")
    found = find(root, tmp_path / "user")
    assert found.state is State.BROKEN
    assert "was removed" in found.reason
    assert "Repair" in found.hint


def test_a_chosen_engine_takes_precedence_or_is_broken(root, tmp_path, monkeypatch):
    installed = make_environment(tmp_path / "user" / "engine", stamp(root))
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


def test_the_stamp_of_a_checkout_is_checked(root, tmp_path):
    development = Path("wheels", "requirements-development.txt")
    make_environment(root / ".venv" / "worker", f"{'0' * 64}  - {LOCK.as_posix()}")
    (root / development).write_text("pytest\n")
    found = find(root, tmp_path)
    assert found.state is State.OUTDATED
    assert "setup.sh" in found.hint
    (root / ".venv" / "worker" / ".stamp").write_text(stamp(root, LOCK, development))
    assert find(root, tmp_path).state is State.READY
    (root / development).write_text("pytest==2\n")
    assert find(root, tmp_path).state is State.OUTDATED
    for nonsense in ("", "0" * 64, f"{'0' * 64}  -", f"{'0' * 64}  - wheels/locks/nothing.txt"):
        (root / ".venv" / "worker" / ".stamp").write_text(nonsense)
        assert find(root, tmp_path).state is State.OUTDATED


# ------------------------------------------------------------------------------------------------ reporting


def test_a_report_has_all_facts_but_not_the_home_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    failure = EDTalkError("The engine crashed with a segmentation fault.", "Try again.", "crash")
    text = engine.report(find(root, tmp_path / "user"), {"Blender": "5.0.1"}, failure, ["one", "two"])
    for words in ("Blender          5.0.1", "not installed", "crash: The engine crashed", "one\ntwo", "GB", "~"):
        assert words in text
    assert str(tmp_path) not in text
