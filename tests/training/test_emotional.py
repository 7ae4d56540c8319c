"""Lines of dialogue with emotions, their voices, the training on them and on clips of one's own, and the measures."""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import STARTER, load_bank
from inference.contract.emotion import NEUTRAL
from inference.contract.errors import EDTalkError
from inference.contract.expression import EMOTIONS
from inference.expression import network_of
from inference.model.audio2expression import Audio2Expression, Audio2ExpressionConfig
from inference.sentiment import Learned, shipped
from inference.word_network import SIZE, load_network
from inference.word_table import load_table
from tests.cli_material import write_wav
from tests.inference.test_prosody import syllables
from training.evaluate import emotion as measures
from training.evaluate.contradiction import CLEAR_WORDS, kept
from training.evaluate.emotion import mentions
from training.stages import audio2expression, audio2expression_clips, words
from training.stages.audio2expression import (
    NOTHING,
    PHRASES,
    batch,
    calibrate,
    chosen_lines,
    example,
    held_back_lines,
    isotonic,
    read_example,
    training_lines,
)
from training.stages.audio2expression_clips import LEAST, network_for, read_clips
from training.stages.word_network import glove
from training.voices import emotional
from training.voices.emotional import (
    ACTIVATION,
    HELD_OUT_LINES,
    HELD_OUT_LINES_2,
    HELD_OUT_LINES_3,
    KINDS,
    RULES,
    TRAINING_FILES,
    WRITERS,
    Line,
    Prosody,
    lines,
)
from training.voices.speech import Take

from .stages import scene

HELD_OUT = (HELD_OUT_LINES, HELD_OUT_LINES_2, HELD_OUT_LINES_3)
STARTS = (("the", " 0.5"), ("and", " -0.5"))  # word vectors to begin with


def test_there_are_enough_lines_of_every_kind_and_none_is_held_out_twice():
    known = [line for path in TRAINING_FILES for line in lines(path)]
    held_out = [line for path in HELD_OUT for line in lines(path)]
    assert len(known) == len({line.text for line in known}) > 13700
    assert len(held_out) == len({line.text for line in held_out}) == 723
    assert min(Counter(line.kind for line in known).values()) >= 1690
    assert min(Counter(line.kind for line in held_out).values()) >= 86
    assert not {line.text for line in known} & {line.text for line in held_out}
    assert all((line.kind == NEUTRAL) == (line.strength == 0) for line in (*known, *held_out))
    assert len(training_lines()) + len(held_back_lines()) == len(known)


def test_what_was_fitted_knows_unseen_lines_of_its_kinds(tmp_path: Path):
    known, unseen = ([line for line in lines(path) if line.kind in ("fear", "happy", NEUTRAL)] for path in WRITERS[:2])
    (tmp_path / "vectors.txt").write_text("".join(f"{word}{number * SIZE}\n" for word, number in STARTS))
    learned = words.fit_both(known, tmp_path / "vectors.txt")
    assert min(words.right(learned, unseen)) > 0.6
    learned.table.save(tmp_path / "words.npz")
    learned.network.save(tmp_path / "vectors.npz")
    loaded = Learned(load_table(tmp_path / "words.npz"), load_network(tmp_path / "vectors.npz"))
    assert words.right(loaded, unseen) == pytest.approx(words.right(learned, unseen), abs=0.01)


def test_vectors_of_another_size_are_refused(tmp_path: Path):
    (tmp_path / "vectors.txt").write_text("the 1 2 3\n")
    with pytest.raises(SystemExit, match="expected a word and 50 numbers a line, found 3"):
        glove(tmp_path / "vectors.txt")


def test_files_of_one_group_are_held_back_together():
    groups = [words.group_of(path) for path in TRAINING_FILES]
    assert set(groups) == set(range(words.GROUPS))


def test_training_continues_from_a_network_with_fewer_features_of_words():
    torch.manual_seed(0)
    known, model = (Audio2Expression(Audio2ExpressionConfig(width=16, words=count)).eval() for count in (24, 32))
    audio2expression.start_from(model, known)
    inputs = torch.randn(1, 3, 48), torch.randn(1, 3, 32), torch.ones(1, 3), torch.ones(1, 3)
    torch.testing.assert_close(model(*inputs)[1], known(*inputs)[1])


def test_an_unknown_kind_is_refused(tmp_path: Path):
    (tmp_path / "lines.txt").write_text("# x\nbored\t0.5\tOh.\n")
    with pytest.raises(ValueError, match="'bored' is not one of"):
        lines(tmp_path / "lines.txt")


def test_every_rule_names_its_source():
    assert set(RULES) == set(ACTIVATION) == set(KINDS)
    assert all(rule.source for rule in RULES.values())
    for kind, step in ACTIVATION.items():
        assert np.sign(RULES[kind].level) == step or step == 0


def teacher(line: Line) -> Learned:
    return shipped()


def test_targets_are_those_of_the_line_that_fills_a_phrase():
    rng = np.random.default_rng(1)
    chosen = chosen_lines(rng, training_lines())
    made = scene(rng, chosen)
    one = example(made, rng, teacher)
    expected = [KINDS.index(line.kind) for line in chosen]
    assert one.kinds[0, : len(chosen)].tolist() == one.kinds[1, : len(chosen)].tolist() == expected
    assert (one.kinds[:, len(chosen) :] == NOTHING).all()
    assert one.words.shape == (4, PHRASES, 32)
    assert not np.array_equal(one.words[0], one.words[1])


def test_hidden_modalities_are_targets_of_the_other():
    rng = np.random.default_rng(2)
    one = example(scene(rng, chosen_lines(rng, training_lines())), rng, teacher)
    made = batch([one] * 3, ["both", "voice", "words"], [0, 0, 0])
    assert made.has_voice[:, 0].tolist() == [1, 1, 0]
    assert made.has_words[:, 0].tolist() == [1, 0, 1]


def test_lines_that_are_only_read_have_no_target_for_the_voice():
    chosen = training_lines()[:2]
    one = read_example(chosen, np.random.default_rng(0), teacher)
    assert one.kinds[0].tolist() == [KINDS.index(line.kind) for line in chosen] + [NOTHING] * (PHRASES - 2)
    assert (one.kinds[1] == NOTHING).all()
    assert not one.voice.any()


def test_a_calm_speaker_varies_less_and_is_neutral_whatever_is_said(monkeypatch: pytest.MonkeyPatch):
    changes: list[float] = []

    def say(text: str, change: Prosody, strength: float) -> Take:
        changes.append(strength * change.pitch)
        return Take(syllables(1.0, (0.2, 0.6)), np.zeros((200, 20), np.float32))

    monkeypatch.setattr(emotional, "_espeak_speaker", lambda rng, variants: say)
    chosen = [line for line in lines(HELD_OUT_LINES) if line.kind == "angry"][:20]
    calm = emotional.scene(np.random.default_rng(0), chosen, calm=True, clean=True)
    assert set(calm.voiced) == {(NEUTRAL, 0.0)}
    varied = np.std(changes)
    changes.clear()
    emotional.scene(np.random.default_rng(0), chosen, contradiction=0.0, random=1.0, clean=True)
    assert 0 < varied < 0.8 * np.std(changes)


def test_isotonic_regression_is_monotonic_and_keeps_the_mean():
    values = np.random.default_rng(0).normal(np.linspace(0, 1, 50), 0.3)
    found = isotonic(values)
    assert (np.diff(found) >= 0).all()
    assert found.mean() == pytest.approx(values.mean())
    np.testing.assert_array_equal(isotonic(np.arange(5.0)), np.arange(5.0))


def test_calibration_is_monotonic_and_starts_at_zero():
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    model = Audio2Expression(Audio2ExpressionConfig(width=16)).eval()
    calibrate(model, [example(scene(rng, chosen_lines(rng, training_lines())), rng, teacher) for _ in range(4)])
    known, value = model.calibration
    assert (known.diff() >= 0).all()
    assert (value.diff() >= 0).all()
    assert value[0] == 0
    assert value.max() <= 1


def test_words_about_groups_of_people_carry_no_emotion():
    model = network_of(load_bank())
    texts = mentions()
    assert len(texts) == len(set(texts)) == 200
    keyed = [text for text in texts if measures.of_words(model, text)[0] != NEUTRAL]
    assert len(keyed) <= 4, keyed


def test_the_measures_of_lines_have_their_goals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measures, "scene", scene)
    known = lines(HELD_OUT_LINES)[::60]
    rows = [*measures.line_rows(load_bank(), known), *measures.activation_rows(load_bank(), known)]
    assert [row.goal for row in rows if row.goal] == [">= 70 %", ">= 75 %", ">= 80 %", ">= 80 %", ">= 75 %"]
    assert all(row.line().count("|") == 6 for row in rows)


# ------------------------------------------------------------------------------------------------ clips of one's own


def write_clips(folder: Path, count: int, **more: str) -> Path:
    write_wav(folder / "a.wav", syllables(2.0, (0.5, 1.0, 1.5)))
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(("sound", "kind", "strength", "text", *more))))
        writer.writeheader()
        for number in range(count):
            kind = EMOTIONS[number % 7]
            writer.writerow({"sound": "a.wav", "kind": kind, "strength": "0.7", "text": "I am here."} | more)
    return folder / "clips.csv"


def test_clips_train_layers_for_brought_features_and_coefficients(tmp_path: Path):
    bank = load_bank()
    np.savez(tmp_path / "f.npz", times=np.arange(0, 2, 0.02), rows=np.random.default_rng(0).normal(size=(100, 12)))
    bank.at_rest(50, 25.0).save(tmp_path / "c.npz")
    table = write_clips(tmp_path, LEAST, features="f.npz", coefficients="c.npz")
    model = network_for(bank, read_clips(table, bank))
    assert (model.config.brought, model.config.expression) == (12, 10)
    parser = argparse.ArgumentParser()
    audio2expression.add_options(parser)
    arguments = ["--clips", str(table), "--bank", str(STARTER), "--out", str(tmp_path / "E.pt"), "--steps", "3"]
    audio2expression.train(parser.parse_args(arguments))
    found = torch.load(tmp_path / "E.pt", weights_only=True)["best"]
    assert found["model.brought.weight"].shape == (96, 12)
    old = network_of(bank).state_dict()["words_first.weight"]
    assert 0 < (found["model.words_first.weight"] - old).abs().max() < 0.01


@pytest.mark.parametrize(
    ("count", "more", "expected"),
    [
        (3, {}, "has 3 clips; at least 20"),
        (20, {"kind": "bored"}, "line 2: the kind must be one of"),
        (20, {"strength": "loud"}, "line 2: the strength must be"),
        (20, {"sound": "b.wav"}, "b.wav"),
    ],
)
def test_clips_that_cannot_be_used_are_named(tmp_path: Path, count: int, more: dict[str, str], expected: str):
    with pytest.raises(EDTalkError, match=expected):
        read_clips(write_clips(tmp_path, count, **more), load_bank())


def test_clips_need_a_bank(tmp_path: Path):
    args = argparse.Namespace(clips=tmp_path / "clips.csv", bank=None)
    with pytest.raises(SystemExit, match="--bank"):
        audio2expression_clips.train_on_clips(args)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_clear_words_decide_in_a_voice_of_another_emotion():
    said = kept(load_bank(STARTER))
    felt = [one for one in said if one.line.kind != NEUTRAL]
    assert len(felt) > 50
    assert len({one.line.text for one in felt}) == 20
    assert np.mean([one.words == one.line.kind for one in felt]) >= 0.8
    assert np.mean([one.both == one.words for one in felt]) >= 0.8
    assert np.mean([one.both == NEUTRAL for one in said if one.line.kind == NEUTRAL]) >= 0.8


def test_the_lines_with_clear_words_are_not_trained_on():
    known = {line.text for path in TRAINING_FILES for line in lines(path)}
    assert not known & {line.text for line in CLEAR_WORDS}
