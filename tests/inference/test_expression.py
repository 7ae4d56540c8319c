"""Emotions of a sound: phrases, words in time, timing of the strengths, and bad input."""

import numpy as np
import pytest
import torch

from inference.contract.bank import STARTER, load_bank
from inference.contract.demo import LINE
from inference.contract.errors import EDTalkError
from inference.contract.expression import EASE, EMOTIONS, LEAST_STRENGTH, RISE, SpokenText
from inference.expression import (
    LEAST_FROM_VOICE,
    LONGEST_PHRASE,
    VOICE_FEATURES,
    Brought,
    check_brought,
    emotions,
    merged,
    phrases_and_words,
    phrases_of,
    voice_rows,
)
from inference.media.sound import RATE, load_speech
from inference.model.audio2expression import Audio2Expression, Audio2ExpressionConfig
from inference.prosody import prosody

HAPPY = EMOTIONS.index("happy")
GLAD, GLUM = "I am so happy, this is wonderful!", "She died, and I miss her so much."


@pytest.fixture(scope="module")
def bank():
    return load_bank()


@pytest.fixture(scope="module")
def line():
    return load_speech(LINE)[0]


@pytest.fixture(scope="module")
def twice(line):
    """The line, a pause of a second, and the line again."""
    return np.concatenate([line, np.zeros(RATE, np.float32), line])


def test_the_answer_is_the_same_again_and_for_parts_of_the_times(bank, twice):
    times = np.arange(0, len(twice) / RATE, 1 / 24)
    whole = emotions(bank, twice, times, [SpokenText(GLAD)])
    again = emotions(bank, twice, times, [SpokenText(GLAD)])
    np.testing.assert_array_equal(whole.rows, again.rows)
    part = emotions(bank, twice, times[40:80], [SpokenText(GLAD)])
    np.testing.assert_array_equal(whole.rows[40:80], part.rows)
    assert whole.suggestions == part.suggestions


def test_words_decide_the_kind(bank, twice):
    middle = len(twice) / RATE / 2
    texts = [SpokenText(GLAD, 0, middle), SpokenText(GLUM, middle)]
    for source in ("both", "words"):
        found = emotions(bank, twice, np.zeros(1), texts, source=source).suggestions
        assert {one.kind for one in found if one.end < middle + 0.1} == {"happy"}
        assert {one.kind for one in found if one.start > middle - 0.1} == {"sad"}
        assert all(0.4 < one.strength <= 1 for one in found)


def test_without_words_the_text_has_no_effect_and_without_voice_the_sound_has_none(bank, line):
    times = np.arange(0, len(line) / RATE, 0.1)
    heard = emotions(bank, line, times, source="voice")
    np.testing.assert_array_equal(heard.rows, emotions(bank, line, times, [SpokenText(GLUM)], source="voice").rows)
    read = emotions(bank, line, times, [SpokenText(GLAD)], source="words")
    louder = np.clip(line * np.linspace(0.5, 1.5, len(line), dtype=np.float32), -1, 1)
    other = emotions(bank, louder, times, [SpokenText(GLAD)], source="words")
    assert [one.strength for one in read.suggestions] == [one.strength for one in other.suggestions]


def test_a_voice_alone_is_no_evidence_unless_it_is_clear(bank, line):
    found = emotions(bank, line, np.arange(0, 2, 0.1), source="voice")
    assert all(one.strength >= LEAST_FROM_VOICE and one.kind != "contempt" for one in found.suggestions)
    assert found.suggestions or "no clear emotion" in found.note


def test_strengths_rise_before_the_phrase_and_fall_after_it(bank, line):
    sound = np.concatenate([np.zeros(RATE, np.float32), line, np.zeros(2 * RATE, np.float32)])
    times = np.arange(0, len(sound) / RATE, 0.01)
    found = emotions(bank, sound, times, [SpokenText(GLAD)])
    curve = found.rows[:, HAPPY]
    assert not curve[times < found.suggestions[0].start - RISE - 0.02].any()
    assert not curve[times > found.suggestions[-1].end + EASE + 0.02].any()
    for one in found.suggestions:
        np.testing.assert_allclose(curve[(times > one.start) & (times < one.end)], one.strength, atol=1e-3)
    assert np.abs(np.diff(curve)).max() < 0.08
    assert not np.delete(found.rows, HAPPY, axis=1).any()


def test_phrases_lie_between_pauses_and_are_not_long(twice):
    voice = prosody(np.tile(twice, 4))
    phrases = phrases_of(voice)
    lengths = np.diff(phrases, axis=1)
    assert (phrases[1:, 0] >= phrases[:-1, 1]).all()
    assert 0.3 < lengths.min() <= lengths.max() <= LONGEST_PHRASE
    assert (voice.speech[(phrases[:, 0] * 100).astype(int) + 2]).all()
    assert voice_rows(voice, phrases).shape == (len(phrases), VOICE_FEATURES)
    assert np.isfinite(voice_rows(voice, phrases)).all()
    steady = prosody(np.tile(twice[: 2 * RATE], 8)[: 15 * RATE])
    assert np.diff(phrases_of(steady), axis=1).max() <= LONGEST_PHRASE


def test_equal_neighbours_merge_and_weak_emotions_are_left_out():
    phrases = np.array([[0.0, 1.0], [1.4, 2.4], [4.0, 5.0], [5.2, 6.0], [7.0, 8.0]])
    strengths = np.zeros((5, 7))
    strengths[[0, 1, 2], HAPPY] = 0.6, 0.8, 0.7
    strengths[3, 0], strengths[4, HAPPY] = 0.5, LEAST_STRENGTH - 0.01
    found = [(one.start, one.end, one.kind, one.strength) for one in merged(phrases, strengths)]
    assert found == [(0, 2.4, "happy", 0.7), (4, 5, "happy", 0.7), (5.2, 6, "angry", 0.5)]


def test_sentences_are_assigned_to_the_phrases_in_order(twice):
    text = [SpokenText("The first one is calm and says nothing much. " + GLAD)]
    phrases, words, note = phrases_and_words(prosody(twice), text)
    assert note == ""
    kinds = [row[3 + HAPPY] > 0.3 for row in words]
    assert kinds == sorted(kinds)
    assert any(kinds)
    assert not all(kinds)
    only = phrases_and_words(prosody(twice), [SpokenText(GLAD, 0, 0.5 * len(twice) / RATE)])[1]
    assert only[0] is not None
    assert only[-1] is None
    assert len(phrases) >= 2


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("Ich weiß nicht, wovon du redest.", "not known"),
        ("今日はとても良い天気ですね。", "not known"),
        (GLAD + " What do you want?" * 5_000, "20 kB"),
        ((GLAD + " ") * 40, "too long for the speech"),
    ],
)
def test_text_that_cannot_be_used_as_it_is_gets_a_sentence(bank, line, text, note):
    found = emotions(bank, line, np.arange(0, 2, 0.1), [SpokenText(text)])
    assert note in found.note
    assert bool(found.note) == bool(note)
    assert np.isfinite(found.rows).all()


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_calm_voice_without_words_shows_no_emotion(bank, line, text):
    calm = line[round(3.2 * RATE) :]  # the second sentence, spoken slowly and low
    found = emotions(bank, calm, np.arange(0, 2, 0.1), [SpokenText(text)])
    assert "Text in English helps" in found.note
    assert not found.suggestions


def test_a_text_too_long_for_the_speech_gives_one_emotion(bank, twice):
    found = emotions(bank, twice, np.zeros(1), [SpokenText((GLAD + " ") * 60)])
    assert {one.kind for one in found.suggestions} == {"happy"}


@pytest.mark.parametrize("sound", [np.zeros(2 * RATE), np.random.default_rng(0).normal(0, 0.05, 2 * RATE)])
def test_sound_without_speech_has_no_emotion_and_a_note(bank, sound):
    found = emotions(bank, sound.astype(np.float32), np.arange(0, 2, 0.1), [SpokenText(GLAD)])
    assert "No speech" in found.note
    assert not found.rows.any()
    assert found.suggestions == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"samples": np.zeros(4000, np.float32)}, "at least 0.5 s, found 0.25 s"),
        ({"samples": np.zeros(0, np.float32)}, "at least 0.5 s"),
        ({"times": [float("nan")]}, "finite"),
        ({"source": "face"}, "emotion_from"),
        ({"brought": Brought(np.arange(3.0), np.zeros((3, 5)))}, "found features of 5 numbers"),
    ],
)
def test_bad_input_is_refused(bank, line, change, expected):
    with pytest.raises(EDTalkError, match=expected):
        emotions(**({"bank": bank, "samples": line, "times": [0.0]} | change))


@pytest.mark.parametrize(
    ("times", "rows", "expected"),
    [
        ([0.0, 1.0, 2.0], np.zeros((2, 4)), "need 'times'"),
        ([0.0], np.zeros((1, 4)), "need 'times'"),
        ([0.0, 1.0], np.zeros(2), "need 'times'"),
        ([0.0, np.nan], np.zeros((2, 4)), "finite"),
        ([0.0, 1.0], np.full((2, 4), np.inf), "finite"),
        ([0.0, 0.0, 3.0], np.zeros((3, 4)), "increase"),
        (np.arange(0, 1.5, 0.02), np.zeros((75, 4)), "0.00 to 1.48 s; the sound lasts 3.00 s"),
        (np.arange(1, 3, 0.02), np.zeros((100, 4)), "1.00 to 2.98 s"),
    ],
)
def test_brought_features_must_cover_the_sound(times, rows, expected):
    with pytest.raises(EDTalkError, match=expected):
        check_brought(Brought(np.array(times), rows), 3.0)
    check_brought(Brought(np.arange(0, 3, 0.02), np.zeros((150, 4))), 3.0)


def test_a_hidden_modality_has_no_effect_and_the_order_of_phrases_has():
    torch.manual_seed(0)
    model = Audio2Expression(Audio2ExpressionConfig(width=16)).eval()
    voice, words = torch.randn(1, 4, 48), torch.randn(1, 4, 32)
    none, one = torch.zeros(1, 4), torch.ones(1, 4)
    strengths, logits = model(voice, words, one, one)
    assert strengths.shape == (1, 4, 7)
    assert logits.shape == (1, 4, 8)
    assert (strengths >= 0).all()
    hidden = model(voice, words, one, none)[0]
    torch.testing.assert_close(hidden, model(voice, 5 * words, one, none)[0])
    assert not torch.allclose(hidden, strengths)
    torch.testing.assert_close(model(voice, words, none, one)[0], model(-voice, words, none, one)[0])
    assert not torch.allclose(model(voice.flip(1), words.flip(1), one, one)[0].flip(1), strengths)


def test_a_network_of_an_earlier_bank_takes_the_features_of_the_word_lists_only():
    torch.manual_seed(0)
    model = Audio2Expression(Audio2ExpressionConfig(width=16, words=24)).eval()
    voice, words, one = torch.randn(1, 4, 48), torch.randn(1, 4, 32), torch.ones(1, 4)
    torch.testing.assert_close(model(voice, words, one, one)[0], model(voice, words[..., :24], one, one)[0])


def test_brought_features_and_expression_coefficients_are_optional_layers():
    model = Audio2Expression(Audio2ExpressionConfig(width=16, brought=5, expression=10)).eval()
    one = torch.ones(1, 3)
    inputs = torch.randn(1, 3, 5), torch.randn(1, 3, 32), one, one
    assert model(*inputs)[0].shape == (1, 3, 7)
    assert model.expression(model.hidden(*inputs)).shape == (1, 3, 10)


def test_a_second_network_judges_sounds_without_any_words():
    torch.manual_seed(0)
    known = Audio2Expression(Audio2ExpressionConfig(width=16, words=24)).eval()
    model = Audio2Expression(Audio2ExpressionConfig(width=20, alone=16)).eval()
    plain = Audio2Expression(Audio2ExpressionConfig(width=20)).eval()
    torch.nn.init.normal_(known.no_words)
    plain.load_state_dict(model.state_dict(), strict=False)
    model.alone.load_state_dict(known.for_voices())
    inputs = torch.randn(2, 4, 48), torch.randn(2, 4, 32), torch.ones(2, 4)
    none, some = torch.zeros(2, 4), torch.zeros(2, 4)
    some[1, 2] = 1.0
    torch.testing.assert_close(model(*inputs, none)[1], known(*inputs, none)[1])
    torch.testing.assert_close(model(*inputs, some)[1][1], plain(*inputs, some)[1][1])
    torch.testing.assert_close(model(*inputs, some)[1][0], known(*inputs, none)[1][0])


def test_nothing_is_suggested_where_neutral_is_the_likeliest_kind():
    model = Audio2Expression(Audio2ExpressionConfig(width=16))
    logits = torch.zeros(2, 8)
    logits[0, 7], logits[1, 2] = 1.0, 1.0
    found = model.suggested(torch.full((2, 7), 0.5), logits, torch.zeros(2, 32))
    assert not found[0].any()
    assert (found[1] > 0).all()


def test_the_scores_of_the_words_take_part_in_the_choice_of_the_kind():
    strengths = torch.tensor([[0.2, 0.9, 0.0, 0.0, 0.0, 0.0, 0.9]])
    logits, words = torch.zeros(1, 8), torch.zeros(1, 32)
    logits[0, 1], words[0, 24] = 1.0, 1.0
    model = Audio2Expression(Audio2ExpressionConfig(width=16))
    told = model.suggested(strengths, logits, words)[0]
    assert told.argmax() == 0
    assert told[0] == pytest.approx(0.9)
    assert model.suggested(strengths, logits, torch.zeros(1, 32))[0].argmax() == 1
    earlier = Audio2Expression(Audio2ExpressionConfig(width=16, words=24))
    assert earlier.suggested(strengths, logits, words)[0].argmax() == 1
    words[0, 31] = 2.0  # neutral
    assert not model.suggested(strengths, logits, words).any()


def test_calibration_is_a_table():
    model = Audio2Expression(Audio2ExpressionConfig(width=16))
    known = torch.linspace(0, 2, 9)
    model.calibration.copy_(torch.stack([known, known.clamp(max=1) ** 2]))
    found = model.calibrated(torch.tensor([0.0, 0.5, 1.0, 1.9, 50.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 1.0, 1.0, 1.0]))


def test_a_bank_without_the_network_uses_that_of_the_starter_bank(bank, line):
    import dataclasses

    small = dataclasses.replace(bank, networks={k: v for k, v in bank.networks.items() if k != "audio2expression"})
    vars(small)["tensors"] = bank.tensors
    times = np.arange(0, 2, 0.1)
    np.testing.assert_array_equal(
        emotions(small, line, times, [SpokenText(GLAD)]).rows, emotions(bank, line, times, [SpokenText(GLAD)]).rows
    )
    assert STARTER.exists()
