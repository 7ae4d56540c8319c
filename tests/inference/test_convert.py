"""Conversion of upstream's files: what is sound becomes a bank, what is not gets one sentence and no output."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inference.contract.bank import AUDIO_PREFIX, load_bank, read_bank
from inference.contract.config import GeneratorConfig
from inference.contract.demo import PORTRAIT
from inference.contract.errors import EDTalkError
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig
from inference.model.convert import Report, convert, format_inspect, inspect
from inference.model.generator import Generator
from tests.seeded_weights import seeded_state_dict

CHANNELS = {4: 8, 8: 8, 16: 4}
EDTALK = GeneratorConfig(size=16, style_dim=16, channels=CHANNELS, banks=(("lip", 4), ("pose", 3), ("exp", 2)))
LIP_POSE = GeneratorConfig(size=16, style_dim=16, channels=CHANNELS, banks=EDTALK.banks[:2])
AUDIO = Audio2LipConfig(channels=(2, 3, 4, 5, 6), lip_dim=4)
EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")


def live_shapes(network: type[torch.nn.Module], config) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network(config).state_dict().items()}


def dead_shapes(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """What upstream's generator of this configuration saves besides the tensors that are used."""
    styled = ["dec.conv1", *(f"dec.convs.{i}" for i in range(2 * len(config.resolutions)))]
    dead = {f"{layer}.noise.weight": (1,) for layer in styled}
    dead["dec.to_rgb1.bias"] = dead["dec.to_rgb1.conv.1.bias"] = (1, 3, 1, 1)
    dead["dec.to_rgb1.conv.0.weight"] = (3, config.channels[4], 1, 1)
    dead["dec.to_rgbs.0.upsample.kernel"] = dead["dec.to_flows.0.upsample.kernel"] = (4, 4)
    for name, shape in live_shapes(Generator, config).items():
        if "fineadainresblock" in name:
            dead[name.replace("conv2", "conv1").replace("norm2", "norm1")] = shape
    return dead


def state(model: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in seeded_state_dict(model, shapes).items()}


SMALL = {
    EDTALK.banks: state("edtalk", live_shapes(Generator, EDTALK) | dead_shapes(EDTALK)),
    LIP_POSE.banks: state("edtalk", live_shapes(Generator, LIP_POSE) | dead_shapes(LIP_POSE)),
}


def generator_state(config: GeneratorConfig = EDTALK) -> dict[str, torch.Tensor]:
    """A copy to be changed at will."""
    return {name: tensor.clone() for name, tensor in SMALL[config.banks].items()}


def audio_state(config: Audio2LipConfig = AUDIO) -> dict[str, torch.Tensor]:
    return state("audio2lip", live_shapes(Audio2Lip, config))


def save_generator(path: Path, tensors: dict[str, torch.Tensor], **options) -> Path:
    """As upstream's trainers save, options and optimiser state included."""
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    args = argparse.Namespace(size=16, lr=1e-4, exp_name="run", nested=argparse.Namespace(betas=(0.5, 0.99)))
    torch.save({"gen": tensors, "dis": {}, "g_optim": optimiser, "args": args}, path, **options)
    return path


def save_audio(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save({"audio2lip": tensors, "args": argparse.Namespace(lr=1e-4)}, path)
    return path


def save_presets(folder: Path, width: int = 2, names: tuple[str, ...] = EMOTIONS) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.full((1, width), index / 3, np.float32))
    return folder


@pytest.fixture
def generator(tmp_path) -> Path:
    return save_generator(tmp_path / "EDTalk.pt", generator_state())


@pytest.fixture
def lip_pose(tmp_path) -> Path:
    return save_generator(tmp_path / "EDTalk_lip_pose.pt", generator_state(LIP_POSE))


@pytest.fixture
def audio(tmp_path) -> Path:
    return save_audio(tmp_path / "Audio2Lip.pt", audio_state())


@pytest.fixture
def presets(tmp_path) -> Path:
    return save_presets(tmp_path / "predefined_exp_weights")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "banks" / "mine.safetensors"


def refused(complaint: str, generator, audio, presets, out: Path) -> str:
    """The one sentence that a conversion fails with; it names a file and leaves nothing behind."""
    with pytest.raises(EDTalkError, match=complaint) as caught:
        convert(generator, audio, presets, out)
    assert not out.parent.exists() or not list(out.parent.glob(".*partial")) + list(out.parent.glob(out.name))
    message = caught.value.message
    assert caught.value.hint
    assert "\n" not in message
    assert any(Path(path).name in message for path in (generator, audio, presets, out) if path)
    return message


class TestRoundTrip:
    def test_a_bank_contains_the_tensors_of_all_files(self, generator, audio, presets, out):
        report = convert(generator, audio, presets, out)
        bank = load_bank(out)
        assert bank.config == EDTALK
        assert bank.has_audio
        assert bank.names[:2] == ("lip_01", "lip_02")
        assert bank.names[-1] == "exp_02"
        assert not bank.rest.any()
        assert sorted(bank.presets) == sorted(EMOTIONS)
        assert np.array_equal(bank.presets["happy"], np.full(2, 4 / 3, np.float32))
        assert bank.name == "EDTalk"
        assert "provided by the user" in bank.licence.lower()
        assert "EDTalk.pt (sha256 " in bank.origin
        assert report.bank.to_json() == bank.to_json()

        saved = generator_state()
        network, voice = Generator(EDTALK), Audio2Lip(AUDIO)
        tensors = {name: torch.from_numpy(tensor) for name, tensor in bank.tensors.items()}
        spoken = {name.removeprefix(AUDIO_PREFIX): t for name, t in tensors.items() if name.startswith(AUDIO_PREFIX)}
        seen = {name: tensor for name, tensor in tensors.items() if not name.startswith(AUDIO_PREFIX)}
        network.load_state_dict(seen, strict=True)
        voice.load_state_dict(spoken, strict=True)
        assert seen.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in seen.items())
        assert all(torch.equal(tensor, audio_state()[name]) for name, tensor in spoken.items())
        assert report.used == len(tensors)

    def test_dead_tensors_are_dropped_and_reported(self, generator, audio, out):
        report = convert(generator, audio, None, out)
        counters = {name for name in audio_state() if name.endswith("num_batches_tracked")}
        assert set(report.dropped) == set(dead_shapes(EDTALK)) | {AUDIO_PREFIX + name for name in counters}
        assert len(report.dropped) == 5 + 3 + 2 + 16 + 13
        assert not set(report.dropped) & set(load_bank(out).tensors)

    def test_without_expression_and_audio(self, lip_pose, out):
        report = convert(lip_pose, None, None, out, name="Faces", licence="CC0-1.0")
        bank = load_bank(out)
        assert (bank.config, bank.has_audio, dict(bank.presets)) == (LIP_POSE, False, {})
        assert (bank.name, bank.licence) == ("Faces", "CC0-1.0")
        Generator(LIP_POSE).load_state_dict({k: torch.from_numpy(v) for k, v in bank.tensors.items()}, strict=True)
        assert len(report.dropped) == 10

    def test_a_file_without_dead_tensors(self, tmp_path, out):
        """Our own training saves none."""
        lean = save_generator(tmp_path / "lean.pt", state("edtalk", live_shapes(Generator, EDTALK)))
        assert convert(lean, None, None, out).dropped == ()

    def test_other_containers(self, tmp_path, generator, audio, out):
        expected = convert(generator, audio, None, out).bank.sha256
        save_file(generator_state(), tmp_path / "EDTalk.safetensors")
        save_file(audio_state(), tmp_path / "Audio2Lip.safetensors")
        others = (tmp_path / "EDTalk.safetensors", tmp_path / "Audio2Lip.safetensors")
        assert convert(*others, None, out).bank.sha256 == expected
        old = save_generator(tmp_path / "old.pt", generator_state(), _use_new_zipfile_serialization=False)
        assert convert(old, audio, None, out).bank.sha256 == expected

    def test_half_precision_becomes_float32(self, tmp_path, out):
        tensors = {name: tensor.half() for name, tensor in generator_state().items()}
        convert(save_generator(tmp_path / "half.pt", tensors), None, None, out)
        assert {tensor.dtype for tensor in load_bank(out).tensors.values()} == {np.dtype(np.float32)}

    def test_presets_may_be_flat(self, tmp_path, generator, out):
        folder = tmp_path / "flat"
        folder.mkdir()
        np.save(folder / "neutral.npy", np.zeros(2, np.float32))
        convert(generator, None, folder, out)
        assert read_bank(out).presets["neutral"].shape == (2,)

    def test_the_report_in_words_and_numbers(self, generator, audio, presets, out):
        report = convert(generator, audio, presets, out)
        assert isinstance(report, Report)
        found = report.to_json()
        assert found["bytes"] == report.size == out.stat().st_size
        assert found["presets"] == list(EMOTIONS)
        assert (found["audio"], found["size"], found["tensors"]) == (True, 16, report.used)
        text = str(report)
        for part in (str(out), report.bank.sha256, "lip 4, pose 3, exp 2", f"{report.used} used, 39 unused", "neutral",
                     "dec.convs.*.noise.weight (4)", "audio     yes"):  # fmt: skip
            assert part in text

    @pytest.mark.slow
    def test_checkpoints_of_published_size_are_converted(self, tmp_path, out):
        """EDTalk.pt and Audio2Lip.pt at their published sizes, every tensor of them."""
        tensors = {name: torch.from_numpy(value) for name, value in seeded_state_dict("edtalk").items()}
        voice = {name: torch.from_numpy(value) for name, value in seeded_state_dict("audio2lip").items()}
        report = convert(
            save_generator(tmp_path / "EDTalk.pt", tensors),
            save_audio(tmp_path / "Audio2Lip.pt", voice),
            save_presets(tmp_path / "presets", 10),
            out,
        )
        assert report.bank.config == GeneratorConfig()
        assert (report.used, len(report.dropped)) == (298 - 66 + 93 - 13, 66 + 13)
        with torch.device("meta"):
            network = Generator()
        weights = load_bank(out).tensors
        live = {name: torch.from_numpy(weights[name]) for name in weights if not name.startswith(AUDIO_PREFIX)}
        network.load_state_dict(live, strict=True, assign=True)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in live.items())


class Attack:
    """A pickle that runs a command when it is read the ordinary way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Expands:
    """A pickle that calls a function with a number."""

    def __init__(self, function: type, number: int) -> None:
        self.call = function, (number,)

    def __reduce__(self):
        return self.call


class Harmless:
    """Not on the allow-list all the same."""


class TestHostileFiles:
    @pytest.mark.parametrize("place", ["entry", "tensor", "options", "beside", "old layout"])
    def test_a_pickle_that_runs_commands(self, tmp_path, out, place):
        attack, path = Attack(tmp_path / "marker"), tmp_path / "evil.pt"
        tensors = generator_state()
        content = {
            "entry": {"gen": attack},
            "tensor": {"gen": tensors | {"fc.0.weight": attack}},
            "options": {"gen": tensors, "args": argparse.Namespace(x=[attack])},
            "beside": {"gen": tensors, "extra": attack},
            "old layout": {"gen": attack},
        }[place]
        torch.save(content, path, _use_new_zipfile_serialization=place != "old layout")
        message = refused("is not safe and was not loaded", path, None, None, out)
        assert f"requests '{os.system.__module__}.system'" in message
        assert not attack.marker.exists()
        torch.load(path, weights_only=False)
        assert attack.marker.exists(), "the attack is no attack, so this test shows nothing"

    def test_a_plain_pickle_that_runs_commands(self, tmp_path, out):
        path = tmp_path / "evil.pt"
        path.write_bytes(pickle.dumps({"gen": Attack(tmp_path / "marker")}, protocol=2))
        refused("evil.pt", path, None, None, out)
        assert not (tmp_path / "marker").exists()

    def test_the_environment_cannot_switch_the_guard_off(self, tmp_path, out, monkeypatch):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        torch.save({"gen": Attack(tmp_path / "marker")}, tmp_path / "evil.pt")
        refused("is not safe", tmp_path / "evil.pt", None, None, out)
        assert not (tmp_path / "marker").exists()

    def test_any_other_class_is_forbidden_too(self, tmp_path, generator, out):
        path = tmp_path / "odd.pt"
        torch.save({"gen": generator_state(), "args": Harmless()}, path)
        refused(r"requests '[\w.]*Harmless'", path, None, None, out)

    def test_the_allowance_ends_with_the_reading(self, generator, out):
        convert(generator, None, None, out)
        assert argparse.Namespace not in torch.serialization.get_safe_globals()

    @pytest.mark.parametrize("old_layout", [False, True])
    @pytest.mark.parametrize("bomb", ["bytearray", "storage", "stride", "shared"])
    def test_a_small_file_that_claims_large_objects(self, tmp_path, out, bomb, old_layout):
        path, tensors = tmp_path / "bomb.pt", generator_state()
        if bomb == "bytearray":
            content, reason = {"gen": tensors, "args": argparse.Namespace(x=Expands(bytearray, 2**33))}, "is not safe"
        elif bomb == "storage":
            content, reason = {"gen": tensors, "args": Expands(torch.Tensor, 2**40)}, "is not safe"
        elif bomb == "stride":
            content, reason = {"gen": tensors | {"fc.0.weight": torch.zeros(1).expand(2**30, 2**10)}}, "claims a shape"
        else:
            whole = torch.zeros(2**20)
            content, reason = {"gen": tensors | {f"fc.{n}.weight": whole for n in range(100)}}, "claims a shape"
        torch.save(content, path, _use_new_zipfile_serialization=not old_layout)
        refused(reason, path, None, None, out)

    def test_an_archive_that_unpacks_to_more(self, tmp_path, generator, out):
        path = tmp_path / "bomb.pt"
        with zipfile.ZipFile(generator) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        refused("compressed entries", path, None, None, out)
        content = bytearray(generator.read_bytes())
        with zipfile.ZipFile(generator) as whole:
            entries = len(whole.namelist())
        at = content.rindex(b"PK\1\2")  # the last entry of the directory; its size follows 20 bytes later
        content[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
        path.write_bytes(content)
        assert entries > 1
        refused("claim more than", path, None, None, out)

    def test_presets_that_are_pickles(self, tmp_path, generator, presets, out):
        np.save(presets / "sad.npy", np.array([Attack(tmp_path / "marker")], object), allow_pickle=True)
        refused("sad.npy is not an emotion preset", generator, None, presets, out)
        assert not (tmp_path / "marker").exists()


class TestBrokenDownloads:
    def test_a_missing_file_is_named(self, tmp_path, generator, out):
        refused("none.pt does not exist", tmp_path / "none.pt", None, None, out)
        refused("none.pt does not exist", generator, tmp_path / "none.pt", None, out)

    def test_an_empty_file_is_refused(self, tmp_path, out):
        (tmp_path / "EDTalk.pt").write_bytes(b"")
        refused("found an empty file", tmp_path / "EDTalk.pt", None, None, out)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize("text", ["<!DOCTYPE html>\n<html>Zu viele Anfragen für heute</html>", " \n", "version 1"])
    def test_a_downloaded_error_page_is_refused(self, tmp_path, out, suffix, text):
        path = tmp_path / f"EDTalk{suffix}"
        path.write_text(text, encoding="utf-8")
        refused("found a text file that begins", path, None, None, out)

    def test_a_truncated_checkpoint_is_refused(self, generator, out):
        content = generator.read_bytes()
        for length in (600, len(content) // 2, len(content) - 1):
            generator.write_bytes(content[:length])
            refused("is truncated: .* only its first", generator, None, None, out)

    def test_a_damaged_middle(self, generator, out):
        """torch itself reads such a file without a word."""
        content = bytearray(generator.read_bytes())
        content[content.index(generator_state()["fc.0.weight"].numpy().tobytes()) + 5] ^= 0xFF
        generator.write_bytes(content)
        torch.load(generator, weights_only=False)
        refused("found a damaged or foreign one", generator, None, None, out)

    def test_other_binary_files_are_refused(self, tmp_path, out):
        path = tmp_path / "EDTalk.pt"
        for content in (bytes(range(256)) * 9, b"\x80\x02" + bytes(range(256)), b"\x80"):
            path.write_bytes(content)
            refused("found a damaged or foreign one", path, None, None, out)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/photograph.jpg", "x")
        refused("found a damaged or foreign one", path, None, None, out)

    def test_cut_off_safetensors(self, tmp_path, out):
        path = tmp_path / "EDTalk.safetensors"
        save_file(generator_state(), path)
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        refused("is truncated", path, None, None, out)


class TestWrongModels:
    def test_swapped_checkpoints_are_named(self, generator, audio, out):
        refused("Audio2Lip.pt is the wrong checkpoint: expected a generator", audio, None, None, out)
        refused("EDTalk.pt is the wrong checkpoint: expected the audio network", generator, generator, None, out)

    def test_a_bank_in_the_checkpoints_place(self, generator, out, tmp_path):
        convert(generator, None, None, out)
        message = refused("is already a bank", out, None, None, tmp_path / "again.safetensors")
        assert str(out) in message

    def test_somebody_elses_network(self, tmp_path, out):
        path = tmp_path / "other.pt"
        torch.save({"state_dict": {"conv.weight": torch.ones(3)}, "epoch": 3}, path)
        refused(r"found state_dict, epoch\.", path, None, None, out)
        torch.save([torch.ones(3)], path)
        refused(r"found list\.", path, None, None, out)
        torch.save({"gen": {"conv.weight": torch.ones(3)}}, path)
        refused("expected a generator .*, but it lacks direction_lipnonlip.weight", path, None, None, out)
        torch.save({"gen": [torch.ones(3)]}, path)
        refused("named tensors", path, None, None, out)
        torch.save({"audio2lip": {"mapping.bias": torch.ones(3)}}, path)
        refused("expected the audio network", save_generator(tmp_path / "g.pt", generator_state()), path, None, out)

    @pytest.mark.parametrize(
        "missing",
        [
            "fc.3.bias",
            "dec.convs.2.conv.modulation.bias",
            "dec.to_flows.1.upsample.kernel",
            "dec.fineadainresblock.1.norm2.mlp_beta.bias",
            "direction_lipnonlip.weight",
            "dec.input.input",
        ],
    )
    def test_a_missing_tensor(self, tmp_path, out, missing):
        tensors = generator_state()
        del tensors[missing]
        refused(f"lacks {missing}", save_generator(tmp_path / "EDTalk.pt", tensors), None, None, out)

    @pytest.mark.parametrize("missing", ["exp_fc.2.bias", "dec.to_flows.1.conv.weight", "lip_fc.2.bias"])
    def test_a_missing_tensor_that_tells_the_sizes(self, tmp_path, out, missing):
        tensors = generator_state()
        del tensors[missing]
        refused("also has|lacks|sizes", save_generator(tmp_path / "EDTalk.pt", tensors), None, None, out)

    @pytest.mark.parametrize(
        "surplus",
        [
            "fc.4.weight",
            "dec.to_rgb2.bias",
            "dec.convs.0.noise.bias",
            "dec.to_rgbs.1.upsample.bias",
            "dec.fineadainresblock.0.conv3.weight",
            "audio2lip.mapping.weight",
        ],
    )
    def test_a_surplus_tensor(self, tmp_path, out, surplus):
        tensors = generator_state() | {surplus: torch.ones(1)}
        path = save_generator(tmp_path / "EDTalk.pt", tensors)
        message = refused(f"also has {surplus}", path, None, None, out)
        assert "expected a 16 px generator with the banks lip 4, pose 3, exp 2" in message

    def test_many_faults_make_one_sentence(self, tmp_path, out):
        tensors = {name.replace("net_app", "net"): tensor for name, tensor in generator_state().items()}
        message = refused("lacks .* and also has", save_generator(tmp_path / "x.pt", tensors), None, None, out)
        assert " more" in message
        assert len(message) < 600

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("fc.0.weight", lambda tensor: tensor[:-1]),
            ("dec.convs.1.conv.weight", lambda tensor: tensor[0]),
            ("enc.net_app.convs.0.0.weight", lambda tensor: tensor[:, :1]),
            ("exp_fc.2.weight", lambda tensor: tensor.T),
        ],
    )
    def test_a_tensor_of_another_shape_is_named(self, tmp_path, out, name, change):
        tensors = generator_state()
        tensors[name] = change(tensors[name]).clone()
        path = save_generator(tmp_path / "EDTalk.pt", tensors)
        refused(rf"whose {name} has shape \(.*\), found \(", path, None, None, out)

    @pytest.mark.parametrize("name", ["direction_lipnonlip.weight", "dec.input.input", "lip_fc.2.bias"])
    def test_sizes_that_make_no_sense(self, tmp_path, out, name):
        for value in (torch.tensor(1.0), torch.ones(0, 0)):
            path = save_generator(tmp_path / "EDTalk.pt", generator_state() | {name: value})
            refused("EDTalk.pt cannot be used", path, None, None, out)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, tmp_path, out, bad):
        tensors = generator_state()
        tensors["fc.1.weight"][2, 3] = bad
        refused("NaN or infinity in fc.1.weight", save_generator(tmp_path / "EDTalk.pt", tensors), None, None, out)

    def test_weights_that_are_no_numbers(self, tmp_path, out):
        for tensor in (torch.ones(16, dtype=torch.int64), torch.ones(16).to_sparse()):
            path = save_generator(tmp_path / "EDTalk.pt", generator_state() | {"fc.0.bias": tensor})
            refused("expected fc.0.bias to hold plain floating-point numbers", path, None, None, out)

    def test_an_audio_network_with_faults(self, tmp_path, generator, out):
        path = tmp_path / "Audio2Lip.pt"
        tensors = audio_state()
        save_audio(path, tensors | {"mapping.scale": torch.ones(1)})
        refused("also has mapping.scale", generator, path, None, out)
        save_audio(path, {name: tensor for name, tensor in tensors.items() if name != "mapping.bias"})
        refused("lacks mapping.bias", generator, path, None, out)
        save_audio(path, {name: tensor for name, tensor in tensors.items() if ".12." not in name})
        refused("lacks audio_encoder.12", generator, path, None, out)
        save_audio(path, audio_state(Audio2LipConfig(AUDIO.channels, 7)))
        refused("does not match this generator: expected 4 mouth coefficients, found 7", generator, path, None, out)


class TestPresets:
    @pytest.mark.parametrize(
        "vector",
        [
            np.zeros((1, 3), np.float32),
            np.zeros((2, 1), np.float32),
            np.zeros((2, 2), np.float32),
            np.array([[0, np.nan]], np.float32),
            np.array([["a", "b"]]),
            np.zeros((1, 2), np.int64),
        ],
    )
    def test_a_wrong_vector(self, generator, presets, out, vector):
        np.save(presets / "happy.npy", vector)
        message = refused("happy.npy is not an emotion preset", generator, None, presets, out)
        assert "shape (1, 2)" in message

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY garbage", b"PK\x03\x04", b"<html>"])
    def test_a_file_that_is_none(self, generator, presets, out, content):
        (presets / "fear.npy").write_bytes(content)
        refused("fear.npy is not an emotion preset", generator, None, presets, out)

    def test_an_archive_in_its_place(self, generator, presets, out):
        np.savez(presets / "x.npz", a=np.zeros(2))
        (presets / "x.npz").replace(presets / "fear.npy")
        refused("fear.npy is not an emotion preset", generator, None, presets, out)

    def test_presets_without_neutral_are_refused(self, generator, presets, out):
        (presets / "neutral.npy").unlink()
        refused("expected neutral.npy, found angry, contempt", generator, None, presets, out)

    def test_a_folder_without_presets_is_refused(self, tmp_path, generator, out):
        (tmp_path / "nothing").mkdir()
        refused("found no .npy file", generator, None, tmp_path / "nothing", out)
        refused("found no such folder", generator, None, tmp_path / "nowhere", out)

    def test_presets_for_a_generator_without_expression(self, lip_pose, presets, out):
        refused("has no expression bank", lip_pose, None, presets, out)


class TestOutput:
    def test_another_suffix_is_refused(self, generator, tmp_path):
        refused("A bank must be a .safetensors file", generator, None, None, tmp_path / "bank.pt")

    def test_the_input_is_not_overwritten(self, tmp_path):
        path = tmp_path / "EDTalk.safetensors"
        save_file(generator_state(), path)
        before = path.read_bytes()
        with pytest.raises(EDTalkError, match="one of the files to be converted"):
            convert(path, None, None, path)
        assert path.read_bytes() == before

    def test_a_failure_keeps_the_old_bank(self, generator, audio, out):
        convert(generator, None, None, out)
        before = out.read_bytes()
        with pytest.raises(EDTalkError):
            convert(audio, None, None, out)
        assert out.read_bytes() == before
        assert list(out.parent.iterdir()) == [out]


class TestInspect:
    def test_inspect_describes_a_bank(self, generator, audio, presets, out):
        report = convert(generator, audio, presets, out)
        found = inspect(out)
        assert (found["kind"], found["hash_ok"], found["audio"]) == ("bank", True, True)
        assert found["tensors"] == report.used
        assert found["sha256"] == report.bank.sha256
        assert found["coefficients"][0] == {
            "name": "lip_01", "bank": "lip", "rest": 0.0, "soft_min": -5.0, "soft_max": 5.0, "unit": "",
            "arkit": {},
        }  # fmt: skip
        text = format_inspect(found)
        for part in ("mine.safetensors: bank", "lip_01", "exp_02", "-5 to 5", "as recorded", "neutral", "sha256"):
            assert part in text

    def test_a_damaged_bank(self, generator, out):
        convert(generator, None, None, out)
        content = bytearray(out.read_bytes())
        content[-1] ^= 1
        out.write_bytes(content)
        found = inspect(out)
        assert not found["hash_ok"]
        assert "is damaged" in found["fault"]
        assert "DIFFERS" in format_inspect(found)

    def test_inspect_describes_checkpoints(self, generator, audio):
        found = inspect(generator)
        assert (found["kind"], found["size"], found["banks"][0]) == ("generator checkpoint", 16, ["lip", 4])
        assert len(found["dropped"]) == len(dead_shapes(EDTALK))
        assert "16 px" in format_inspect(found)
        found = inspect(audio)
        assert (found["kind"], found["lip_dim"]) == ("audio checkpoint", 4)
        assert "4 mouth coefficients" in format_inspect(found)

    def test_an_unfit_checkpoint_is_described(self, tmp_path):
        tensors = generator_state() | {"fc.4.weight": torch.ones(1)}
        found = inspect(save_generator(tmp_path / "odd.pt", tensors))
        assert "also has fc.4.weight" in found["fault"]
        assert "fault" in format_inspect(found)

    def test_another_kind_of_file(self, tmp_path):
        """The message names both kinds that are expected, what was found, and the next step."""
        (tmp_path / "notes.txt").write_text("Hello")
        for path, found in ((PORTRAIT, "a PNG picture"), (tmp_path / "notes.txt", "a text file"), (tmp_path, "a fold")):
            expected = rf"expected a bank \(.safetensors\) or a checkpoint .*, found {found}.*Choose"
            with pytest.raises(EDTalkError, match=expected) as caught:
                inspect(path)
            assert str(path) in caught.value.message

    def test_what_cannot_be_read(self, tmp_path):
        for name in ("none.pt", "none.safetensors"):
            with pytest.raises(EDTalkError, match=f"{name} does not exist"):
                inspect(tmp_path / name)
