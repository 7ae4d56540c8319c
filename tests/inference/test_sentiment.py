"""Emotional features of text."""

import numpy as np
import pytest

from inference.contract.expression import EMOTIONS
from inference.sentiment import FEATURES, LEXICON, LISTED, compound, features, is_english, read_text, syllables_of
from inference.word_network import tokens


def of(text, name):
    return float(features(text)[FEATURES.index(name)])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("happy", "What a wonderful day, I love it!"),
        ("sad", "I miss her so much, and I can't stop crying."),
        ("angry", "How dare you! Get out of my house!"),
        ("fear", "I'm terrified, please don't hurt me."),
        ("disgusted", "Ugh, that smell is revolting."),
        ("surprised", "Wow, I had no idea!"),
        ("contempt", "Spare me your pathetic little speech."),
    ],
)
def test_words_suggest_an_emotion(kind, text):
    row = features(text)[3 : 3 + len(EMOTIONS)]
    assert EMOTIONS[int(row.argmax())] == kind
    assert row.max() > 0.5


def test_a_statement_without_emotional_words_has_none():
    row = features("The train leaves at a quarter past nine.")[: 3 + len(EMOTIONS)]
    assert not row.any()


def test_negation_turns_the_valence_and_stops_an_emotion():
    assert compound("The film is good.") > 0 > compound("The film is not good.")
    assert of("I am happy.", "happy") > 0 == of("I am not happy.", "happy")
    assert of("It never failed.", "negations") == 0.5


def test_degrees_and_punctuation_are_noticed():
    assert of("I am very sad.", "sad") > of("I am sad.", "sad") > of("I am slightly sad.", "sad")
    assert of("Stop! Stop!", "exclamations") == pytest.approx(2 / 3)
    assert of("You did? Really?", "questions") == pytest.approx(2 / 3)
    assert of("I wonder...", "ellipses") == 1
    assert of("GET OUT now", "capitals") == pytest.approx(2 / 3)


def test_the_learned_table_knows_situations_that_no_list_names():
    for kind, text in (("fear", "The footsteps behind me stop."), ("neutral", "Turn left at the bridge.")):
        scores = {name.removeprefix("learned "): of(text, name) for name in FEATURES if name.startswith("learned ")}
        assert max(scores, key=scores.get) == kind


def test_words_about_groups_of_people_do_not_change_the_learned_scores():
    rows = [features(f"My {word} neighbour called the station.")[len(LISTED) :] for word in ("gay", "Turkish", "blind")]
    np.testing.assert_allclose(rows[1:], [rows[0]] * 2, atol=1e-6)


def test_words_are_divided_until_they_are_known():
    known = frozenset(("did", "n't", "well", "known", "'s", "gran")).__contains__
    assert tokens("Didn’t the Turk’s gran…", frozenset(("turk",)), known) == [
        "did",
        "n't",
        "the",
        "person",
        "'s",
        "gran",
        "...",
    ]
    assert tokens("Well-known!", frozenset(), known) == ["well", "known", "!"]


def test_a_phrase_counts_as_a_whole():
    assert of("My boss, that old goat, fired me out of the blue.", "surprised") > 0.5
    assert of("The sky is blue.", "surprised") == 0


def test_a_text_is_divided_into_sentences():
    sentences = read_text('"Stop!" he said.\nWhere are you? I... I don’t know.')
    assert [sentence.words[0] for sentence in sentences] == ["stop", "he", "where", "i", "i"]
    assert sentences[2].syllables == 3
    assert read_text("") == read_text(" ...!? ") == []


def test_a_sentence_is_read_with_its_neighbours_unless_it_is_neutral():
    first, last = "I cooked all day.", "You threw it away, you ungrateful brat!"
    alone, together = read_text(last)[0].features, read_text(f"{first} {last}")[1].features
    scores = slice(len(LISTED), None)
    both = (features(last) + features(f"{first} {last}"))[scores] / 2
    np.testing.assert_allclose(together[scores], both, atol=1e-6)
    np.testing.assert_array_equal(together[: len(LISTED)], alone[: len(LISTED)])
    plain = "The meeting is on Tuesday in room four."
    np.testing.assert_array_equal(read_text(f"{plain} {last}")[0].features, features(plain))


def test_syllables_are_counted():
    assert [syllables_of(word) for word in ("cat", "make", "table", "banana", "b2b", "日本", "")] == [
        1,
        1,
        2,
        3,
        1,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("I don't know what to say.", True),
        ("Yuck!", True),
        ("Ich weiß nicht, wovon du redest, mein Freund.", False),
        ("今日はとても良い天気ですね。", False),
        ("Je ne sais pas pourquoi il pleure.", False),
        ("zxcv qwrt plmk", False),
        ("", False),
    ],
)
def test_other_languages_are_told_apart(text, known):
    assert is_english(read_text(text)) is known


@pytest.mark.parametrize("text", ["\0\ud800", "a" * 50_000, "!" * 5_000, "\u202eabc", "🙂" * 100, "it's--'' -'"])
def test_any_text_gives_finite_features(text):
    row = features(text)
    assert row.shape == (len(FEATURES),)
    assert np.isfinite(row).all()
    assert np.abs(row).max() <= 2


def test_the_word_lists_are_well_formed_and_state_their_origin():
    for name in ("valence.tsv", "emotions.tsv", "groups.tsv", "words.npz", "vectors.npz"):
        if name.endswith(".tsv"):
            assert (LEXICON / name).read_text(encoding="utf-8").startswith("#")
        assert f"`{name}`" in (LEXICON / "README.md").read_text(encoding="utf-8")
    kinds = {line.split("\t")[0] for line in (LEXICON / "emotions.tsv").read_text().splitlines() if line[0] != "#"}
    assert kinds == set(EMOTIONS)
    assert "MIT" in (LEXICON / "README.md").read_text(encoding="utf-8")
