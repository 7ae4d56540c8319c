"""Bank files: round trips, detection of damage, and emotions."""

import json
import os
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.contract import arkit
from inference.contract.bank import Bank, Coefficient, copy_bank, load_bank, numbered_coefficients, read_bank, save_bank
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.contract.files import open_regular
from inference.model.generator import Generator

CONFIG = GeneratorConfig(size=8, style_dim=8, channels={4: 4, 8: 4}, banks=(("lip", 3), ("pose", 2), ("exp", 2)))
COLUMNS = ("lip", "lip", "lip", "pose", "pose", "exp", "exp")


@pytest.fixture
def bank() -> Bank:
    jaw = Coefficient("jawOpen", "lip", 0.1, 0.0, 1.0, "opening", {"jawOpen": 0.5, "mouthClose": -0.25})
    names = (jaw, *numbered_coefficients(CONFIG.banks)[1:])
    return Bank(
        name="test bank",
        config=CONFIG,
        coefficients=names,
        presets={
            "neutral": np.array([5.0, -3.0], np.float32),
            "happy": np.array([1 / 3, 2.0], np.float32),
            "sad": np.array([-2.0, 0.5], np.float32),
        },
        licence="CC0-1.0",
        origin="made in a test",
    )


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "dec.weight": rng.normal(size=(4, 3)).astype(np.float32),
        "transposed": rng.normal(size=(4, 3)).astype(np.float32).T,
        "audio2lip.steps": np.array(7, np.int64),
    }


@pytest.fixture
def saved(bank, tensors, tmp_path):
    path = tmp_path / "bank.safetensors"
    save_bank(bank, tensors, path)
    return path


def rewrite_header(path, change) -> None:
    """Apply `change` to the file's JSON header without changing the weights."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header = change(header) or header
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def rewrite_bank(path, **changes) -> None:
    def change(header):
        header["__metadata__"]["edtalk"] = json.dumps(json.loads(header["__metadata__"]["edtalk"]) | changes)

    rewrite_header(path, change)


def refused(path, complaint) -> None:
    with pytest.raises(EDTalkError, match=complaint) as caught:
        load_bank(path)
    assert caught.value.kind == "bank"
    assert path.name in caught.value.message


class TestRoundTrip:
    def test_round_trip(self, bank, tensors, saved):
        loaded = load_bank(saved)
        assert loaded.config == CONFIG
        assert loaded.coefficients == bank.coefficients
        assert (loaded.name, loaded.licence, loaded.origin) == (bank.name, bank.licence, bank.origin)
        assert loaded.has_audio
        assert loaded.path == saved
        for name, vector in bank.presets.items():
            assert np.array_equal(loaded.presets[name], vector)
            assert loaded.presets[name].dtype == np.float32
        assert loaded.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert np.array_equal(loaded.tensors[name], tensor)
            assert (loaded.tensors[name].shape, loaded.tensors[name].dtype) == (tensor.shape, tensor.dtype)

    def test_the_speech_level_is_kept_and_checked(self, bank, tensors, saved):
        assert read_bank(saved).speech_level is None  # as in older banks
        save_bank(replace(bank, speech_level=-22.0), tensors, saved)
        assert read_bank(saved).speech_level == -22.0
        rewrite_bank(saved, speech_level=12)
        refused(saved, "speech level of 12.0 dB; expected -60 to 0")
        rewrite_bank(saved, speech_level="loud")
        refused(saved, "unreadable bank metadata")

    def test_save_returns_what_read_returns(self, bank, tensors, tmp_path):
        path = tmp_path / "new" / "folder" / "bank.safetensors"
        written = save_bank(bank, tensors, path)
        assert read_bank(path).to_json() == written.to_json()
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    def test_the_hash_is_of_the_weights(self, bank, tensors, saved, tmp_path):
        renamed = save_bank(replace(bank, name="other"), tensors, tmp_path / "renamed.safetensors")
        assert renamed.sha256 == read_bank(saved).sha256
        changed = save_bank(bank, tensors | {"dec.weight": tensors["dec.weight"] + 1}, tmp_path / "changed.safetensors")
        assert changed.sha256 != read_bank(saved).sha256

    def test_rest_is_by_column(self, saved):
        bank = read_bank(saved)
        rest = bank.at_rest(3, fps=25.0)
        assert rest.names == bank.names
        assert rest.fps == 25.0
        assert np.array_equal(rest.values, np.tile(np.array([0.1, 0, 0, 0, 0, 0, 0], np.float32), (3, 1)))
        assert bank.names_of("pose") == ("pose_01", "pose_02")
        assert bank.names_of("eye") == ()

    def test_a_failed_save_keeps_the_old_bank(self, bank, tensors, saved, monkeypatch):
        before = saved.read_bytes()

        def full_disk(path, content):
            with path.open("wb") as file:
                file.write(content[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(saved), "write_bytes", full_disk)
        with pytest.raises(EDTalkError, match=r"bank\.safetensors could not be written: No space") as caught:
            save_bank(bank, tensors, saved)
        assert caught.value.kind == "disk"
        assert saved.read_bytes() == before
        assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]

    def test_a_file_instead_of_the_folder(self, bank, tensors, saved):
        with pytest.raises(EDTalkError, match="could not be written"):
            save_bank(bank, tensors, saved / "bank.safetensors")


class TestDamage:
    def test_a_missing_bank_is_refused(self, tmp_path):
        refused(tmp_path / "none.safetensors", "does not exist")

    @pytest.mark.parametrize("content", [b"", b"short", b"<!DOCTYPE html><html>not found</html>", b"\xff" * 100])
    def test_files_of_other_formats_are_refused(self, tmp_path, content):
        path = tmp_path / "odd.safetensors"
        path.write_bytes(content)
        found = "an empty file" if not content else "a text file" if content < b"\x80" else "an unknown format"
        refused(path, f"expected a safetensors file, found {found}")

    @pytest.mark.parametrize("header", [b"[1, 2]", b"{]", b"\xff\xfe", b'{"w": {}}', b'{"__metadata__": [1]}'])
    def test_invalid_headers(self, tmp_path, header):
        path = tmp_path / "odd.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        refused(path, "no valid safetensors header")

    def test_truncated_files(self, saved):
        content = saved.read_bytes()
        for length in (4, 20, len(content) // 2, len(content) - 1):
            saved.write_bytes(content[:length])
            refused(saved, "truncated|expected a safetensors file")

    def test_a_single_changed_bit(self, saved):
        content = bytearray(saved.read_bytes())
        content[-3] ^= 1
        saved.write_bytes(content)
        assert read_bank(saved).name == "test bank"  # its meaning can still be read
        refused(saved, "is damaged: its weights hash to")

    def test_a_foreign_safetensors_file(self, tensors, tmp_path):
        save_file({"dec.weight": tensors["dec.weight"]}, tmp_path / "foreign.safetensors")
        refused(tmp_path / "foreign.safetensors", "found a safetensors file without 'edtalk' metadata")
        save_file({"dec.weight": tensors["dec.weight"]}, tmp_path / "foreign.safetensors", {"format": "pt"})
        refused(tmp_path / "foreign.safetensors", "without 'edtalk' metadata")

    def test_a_newer_format(self, saved):
        rewrite_bank(saved, format_version=3)
        refused(saved, "has bank format 3, this version reads up to 2")

    @pytest.mark.parametrize(
        "changes",
        [
            {"coefficients": [{"title": "jaw"}]},
            {"coefficients": 3},
            {"coefficients": [{"name": ["jaw"], "bank": ["lip"]}]},
            {"coefficients": [{"name": str(i), "bank": bank, "rest": "open"} for i, bank in enumerate(COLUMNS)]},
            {"size": 100},
            {"banks": [["exp", 3]]},
            {"channels": {}},
            {"presets": {"neutral": "loud"}},
            {"format_version": None},
        ],
    )
    def test_invalid_metadata(self, saved, changes):
        rewrite_bank(saved, **changes)
        refused(saved, "unreadable bank metadata")

    @pytest.mark.parametrize(
        "changes",
        [
            {"banks": [["lip", 2147483648], ["pose", 2], ["exp", 2]]},
            {"banks": [["lip", 3], ["pose", 2], ["exp", 2], *([f"more{i}", 10**9] for i in range(99))]},
            {"banks": [["lip", -3], ["pose", 8], ["exp", 2]]},
            {"banks": [["lip", float("inf")], ["pose", 2], ["exp", 2]]},
            {"style_dim": 2**20},
            {"style_dim": 0},
            {"style_dim": float("inf")},
            {"size": 2**40},
            {"size": 2**20, "channels": {str(2**power): 4 for power in range(2, 21)}},
            {"channels": {"4": 4, "8": 2**31}},
            {"channels": {"4": 4, "8": -4}},
        ],
    )
    def test_sizes_out_of_range(self, saved, changes):
        rewrite_bank(saved, **changes)
        tracemalloc.start()
        try:
            refused(saved, "unreadable bank metadata")
            assert tracemalloc.get_traced_memory()[1] < 5e6
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "changes",
        [{"style_dim": 4096}, {"size": 16, "channels": {"4": 4, "8": 4, "16": 4}}, {"channels": {"4": 4, "8": 8}}],
    )
    def test_sizes_that_do_not_match_the_weights(self, bank, tmp_path, changes):
        path = tmp_path / "bank.safetensors"
        tensors = {name: tensor.numpy() for name, tensor in Generator(CONFIG).state_dict().items()}
        save_bank(bank, tensors, path)
        assert load_bank(path).config == CONFIG
        rewrite_bank(path, **changes)
        refused(path, "metadata does not match its weights")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
    def test_only_regular_files_are_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.safetensors")
        (tmp_path / "zeros.safetensors").symlink_to("/dev/zero")
        for name in ("pipe.safetensors", "zeros.safetensors"):
            refused(tmp_path / name, "not a regular file")

    @pytest.mark.parametrize("number", [np.float16, np.float32])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_weights_that_are_not_finite(self, bank, tensors, tmp_path, number, value):
        name = next(name for name, tensor in tensors.items() if tensor.dtype.kind == "f")
        broken = tensors[name].astype(number)
        broken.flat[0] = value
        save_bank(bank, tensors | {name: broken}, tmp_path / "nan.safetensors")
        refused(tmp_path / "nan.safetensors", f"its weights '{name}' are not finite")

    def test_the_file_is_opened_once(self, saved, monkeypatch):
        """Otherwise another file could be put in its place after the hash has been checked."""
        opened = []
        monkeypatch.setattr(
            "inference.contract.bank.open_regular", lambda *given: opened.append(given) or open_regular(*given)
        )
        load_bank(saved)
        assert len(opened) == 1

    def test_weights_read_later_are_checked_too(self, bank, tensors, saved):
        early = read_bank(saved)
        changed = {name: tensor + 1 if tensor.dtype.kind == "f" else tensor for name, tensor in tensors.items()}
        save_bank(bank, changed, saved)
        with pytest.raises(EDTalkError, match="its weights hash to"):
            _ = early.tensors

    @pytest.mark.parametrize("text", ['"\\ud800"', "NaN", "Infinity", "[" * 10**5])
    def test_forged_metadata_text(self, saved, text):
        rewrite_header(
            saved, lambda header: header["__metadata__"].update(edtalk=f'{{"format_version": 1, "name": {text}}}')
        )
        refused(saved, "unreadable bank metadata")

    def test_metadata_that_is_not_json(self, saved):
        rewrite_header(saved, lambda header: header["__metadata__"].update(edtalk="{"))
        refused(saved, "unreadable bank metadata")

    def test_tensors_that_overlap(self, saved):
        def change(header):
            header["transposed"]["data_offsets"] = header["dec.weight"]["data_offsets"] = [56, 104]

        rewrite_header(saved, change)
        refused(saved, "its weights cannot be read")


class TestMetadata:
    @pytest.mark.parametrize(
        ("names", "complaint"),
        [
            ([("a", "lip"), ("b", "lip"), ("c", "pose"), ("d", "pose"), ("e", "exp"), ("f", "exp")], "'lip': 2"),
            ([("a", "lip")] * 3 + [("c", "pose"), ("d", "pose"), ("e", "exp"), ("f", "exp")], "with unique names"),
            ([(str(i), "lip") for i in range(3)] + [("c", "pose"), ("d", "pose"), ("e", "eye"), ("f", "eye")], "'exp'"),
        ],
    )
    def test_a_wrong_coefficient_table(self, bank, tensors, saved, tmp_path, names, complaint):
        wrong = replace(bank, coefficients=tuple(Coefficient(*entry) for entry in names))
        with pytest.raises(EDTalkError, match=complaint):
            save_bank(wrong, tensors, tmp_path / "wrong.safetensors")
        assert not (tmp_path / "wrong.safetensors").exists()
        rewrite_bank(saved, coefficients=[vars(entry) for entry in wrong.coefficients])
        refused(saved, complaint)

    def test_banks_out_of_order(self, bank, tensors, tmp_path):
        """Columns are read by position, so the table must have the order of the basis."""
        wrong = replace(bank, coefficients=bank.coefficients[::-1])
        with pytest.raises(EDTalkError, match="order"):
            save_bank(wrong, tensors, tmp_path / "wrong.safetensors")

    @pytest.mark.parametrize(
        ("presets", "complaint"),
        [
            ({"neutral": [0, 0, 0]}, "wrong preset 'neutral': expected 2 numbers, found 3"),
            ({"happy": [0, 0]}, "no 'neutral'"),
            ({"neutral": [0, np.nan]}, "not finite"),
        ],
    )
    def test_wrong_presets(self, bank, tensors, tmp_path, presets, complaint):
        vectors = {name: np.array(vector, np.float32) for name, vector in presets.items()}
        with pytest.raises(EDTalkError, match=complaint):
            save_bank(replace(bank, presets=vectors), tensors, tmp_path / "wrong.safetensors")

    def test_a_bank_without_a_file_has_no_weights(self, bank):
        with pytest.raises(EDTalkError, match="no file"):
            _ = bank.tensors


class TestCopies:
    """Copies with the same weights and other metadata."""

    def test_only_the_metadata_changes(self, bank, tensors, saved, tmp_path):
        old = read_bank(saved)
        named = replace(old, coefficients=tuple(replace(entry, name=entry.name.upper()) for entry in old.coefficients))
        copied = copy_bank(named, tmp_path / "deep" / "named.safetensors")
        loaded = load_bank(copied.path)
        assert loaded.to_json() == copied.to_json() == named.to_json()
        assert loaded.sha256 == old.sha256
        for name, tensor in tensors.items():
            assert np.array_equal(loaded.tensors[name], tensor)
        assert read_bank(saved).to_json() == old.to_json()
        assert [path.name for path in copied.path.parent.iterdir()] == ["named.safetensors"]

    def test_tensors_stay_aligned(self, saved, tmp_path):
        for length in range(1, 10):
            copied = copy_bank(replace(read_bank(saved), name="n" * length), tmp_path / f"{length}.safetensors")
            (header,) = struct.unpack("<Q", copied.path.read_bytes()[:8])
            assert header % 8 == 0
            assert load_bank(copied.path).name == "n" * length

    def test_invalid_copies(self, saved, tmp_path):
        bank = read_bank(saved)
        with pytest.raises(EDTalkError, match="cannot be copied onto itself"):
            copy_bank(bank, saved)
        with pytest.raises(EDTalkError, match="could not be written"):
            copy_bank(bank, saved / "bank.safetensors")
        twice = (bank.coefficients[0],) * 2 + bank.coefficients[2:]
        with pytest.raises(EDTalkError, match="with unique names"):
            copy_bank(replace(bank, coefficients=twice), tmp_path / "twice.safetensors")
        assert not (tmp_path / "twice.safetensors").exists()
        assert load_bank(saved).to_json() == bank.to_json()


class TestArkit:
    """ARKit weights as stored in a bank, and as derived from names for older banks."""

    @pytest.fixture
    def old(self, bank, tensors, tmp_path):
        """A bank file without ARKit weights."""

        def write(*coefficients: Coefficient):
            path = tmp_path / "old.safetensors"
            table = (*coefficients, *numbered_coefficients(CONFIG.banks)[len(coefficients) :])
            save_bank(replace(bank, coefficients=table), tensors, path)
            entries = [{key: value for key, value in vars(entry).items() if key != "arkit"} for entry in table]
            rewrite_bank(path, coefficients=entries)
            return path

        return write

    def test_weights_are_derived_from_names(self, old):
        path = old(
            Coefficient("jawOpen", "lip"),
            Coefficient("mouthSmile", "lip"),
            Coefficient("lip_03", "lip"),
            Coefficient("headYaw", "pose", unit="30 degrees, positive towards picture right"),
            Coefficient("headShiftX", "pose", unit="8 % of the picture's width, positive right"),
            Coefficient("headRoll", "exp"),
        )
        assert [dict(entry.arkit) for entry in load_bank(path).coefficients] == [
            {"jawOpen": 1.0},
            {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5},
            {},
            {"headYaw": 1 / 30},
            {},
            {},
            {},
        ]

    def test_stored_weights_are_kept(self, bank, saved):
        assert read_bank(saved).coefficients == bank.coefficients
        rewrite_bank(saved, coefficients=[vars(replace(entry, arkit={})) for entry in bank.coefficients])
        assert read_bank(saved).coefficients[0].arkit == {}

    def test_the_starter_bank_matches_the_trainer(self, starter_bank):
        exported = pytest.importorskip("training.export").starter_bank(starter_bank.config.generator)
        assert read_bank(starter_bank.path).coefficients == exported.coefficients
        known = {unit for entry in exported.coefficients for unit in entry.arkit}
        assert known == set(arkit.NAMES)

    @pytest.mark.parametrize("shares", [{"jaw": 1.0}, "jawOpen", ["jawOpen"], 3, {"jawOpen": "all"}, {"jawOpen": None}])
    def test_invalid_weights(self, bank, saved, shares):
        entries = [vars(entry) for entry in bank.coefficients]
        rewrite_bank(saved, coefficients=[entries[0] | {"arkit": shares}, *entries[1:]])
        refused(saved, "unreadable bank metadata|not an ARKit face unit|not finite")

    def test_weights_that_are_not_finite(self, bank, tensors, tmp_path):
        wrong = replace(bank.coefficients[0], arkit={"jawOpen": np.inf})
        with pytest.raises(EDTalkError, match="not finite"):
            save_bank(replace(bank, coefficients=(wrong, *bank.coefficients[1:])), tensors, tmp_path / "wrong")


class TestEmotion:
    @pytest.fixture
    def expression(self) -> np.ndarray:
        return np.random.default_rng(2).normal(size=(4, 2)).astype(np.float32)

    def test_no_emotion_changes_nothing(self, bank, expression):
        assert np.array_equal(bank.with_emotion(expression, {}), expression)
        assert np.array_equal(bank.with_emotion(expression, {"happy": 0.0}), expression)

    @pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
    def test_neutral_changes_nothing(self, bank, expression, strength):
        assert np.array_equal(bank.with_emotion(expression, {"neutral": strength}), expression)

    def test_the_difference_from_neutral_is_added(self, bank):
        """Starting at neutral, strength 1 gives the preset; starting at rest, it gives the difference."""
        neutral, happy = bank.presets["neutral"], bank.presets["happy"]
        np.testing.assert_allclose(bank.with_emotion(neutral[None], {"happy": 1.0}), happy[None], atol=1e-6)
        at_rest = bank.with_emotion(np.zeros((1, 2)), {"happy": 1.0})
        np.testing.assert_allclose(at_rest, (happy - neutral)[None])
        assert np.abs(at_rest - happy).max() > 1

    def test_linear_in_strength_and_emotions_add(self, bank, expression):
        def change(**strengths) -> np.ndarray:
            return bank.with_emotion(expression, strengths) - expression

        np.testing.assert_allclose(change(happy=0.6), 0.6 * change(happy=1.0), atol=1e-5)
        np.testing.assert_allclose(change(happy=-1.0), -change(happy=1.0), atol=1e-5)
        np.testing.assert_allclose(
            change(happy=0.5, sad=0.25), 0.5 * change(happy=1.0) + 0.25 * change(sad=1.0), atol=1e-5
        )

    def test_a_strength_per_frame(self, bank, expression):
        curve = np.array([0.0, 0.5, 1.0, 0.25])
        together = bank.with_emotion(expression, {"sad": curve})
        for frame, strength in enumerate(curve):
            alone = bank.with_emotion(expression[frame : frame + 1], {"sad": float(strength)})
            np.testing.assert_allclose(together[frame], alone[0], atol=1e-6)
        assert together.dtype == np.float32

    def test_the_argument_is_not_modified(self, bank, expression):
        before = expression.copy()
        bank.with_emotion(expression, {"happy": 1.0})
        assert np.array_equal(expression, before)

    def test_an_unknown_emotion(self, bank, expression):
        with pytest.raises(EDTalkError, match="no emotion 'bored'; it has: happy, neutral, sad"):
            bank.with_emotion(expression, {"bored": 1.0})
