"""Rows of the report's table: measured values with baselines and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.cli.bench import RandomBank
from inference.contract.bank import Bank
from inference.contract.errors import EDTalkError
from training.stages.generator import small_config
from training.units import BANKS, EMOTIONS, NAMES

from . import measure, motion, people, photographs, voices
from .measure import Measurements
from .puppet import Puppet
from .recognition import Classifiers, correlations, relative_distance, stranger_distance
from .report import Figure

LARGE = 256  # pixels of the speed target


def people_figures(measured: Measurements) -> list[Figure]:
    """Figures for the similarity of frames of test people to the true frames."""
    # Copying has no error in frames that equal the portrait; their infinite PSNR is left out of the mean.
    scores = {name: np.where(np.isinf(part), np.nan, part) if "copy" in name else part
              for name, part in measured.scores.items()}  # fmt: skip
    score = {name: float(np.nanmean(values)) for name, values in scores.items()}
    sweep = {name: float(np.nanmean(measured.scores[name][:, people.DRIVEN :])) for name in ("psnr", "psnr_copy")}
    talk = {name: float(np.nanmean(measured.scores[name][:, : people.DRIVEN])) for name in ("psnr", "psnr_copy")}
    figures = driven_figures(score, "", "")
    figures += [
        Figure("psnr_talk", "PSNR of frames of talking and acting", talk["psnr"], "dB", talk["psnr_copy"]),
        Figure("psnr_sweep", "PSNR of pose sweeps", sweep["psnr"], "dB", sweep["psnr_copy"]),
        Figure("points_eyes", "landmark error, around the eyes", score["points_eyes"], "%",
               score["points_eyes_copy"], 0.0),
        Figure("drift", "landmark error by optical flow between truth and result", score["drift"], "%",
               score["drift_copy"]),
    ]  # fmt: skip
    figures += driven_figures(score, "rest_", "from a portrait exactly at rest: ")
    figures += driven_figures(score, "led_", "relative to the portrait: ")
    figures.append(
        Figure("background", "background outside the head, mean change in levels of 255", score["background"],
               "levels", 0.0, 0.0, 2.0, at_most=True)
    )  # fmt: skip
    return figures


def driven_figures(score: dict[str, float], case: str, words: str) -> list[Figure]:
    """Figures for the similarity of driven frames to the true frames.

    score: mean values of `Measurements.scores` by name. case: prefix of these names. words: prefix of the descriptions.
    """

    def figure(key: str, what: str, unit: str, truth: float | None, target: float, at_most: bool = False) -> Figure:
        key = case + key
        return Figure(key, words + what, score[key], unit, score[f"{key}_copy"], truth, target, at_most)

    gain = score[f"{case}psnr"] - score[f"{case}psnr_copy"]
    return [
        figure("psnr", "PSNR, face region", "dB", None, 26.0),
        Figure(f"{case}psnr_gain", f"{words}gain over copying the source", gain, "dB", 0.0, None, 6.0),
        figure("ssim", "SSIM, face region", "", 1.0, 0.85),
        figure("points_mouth", "landmark error, mouth, of the eye distance", "%", 0.0, 0.04, at_most=True),
        figure("points_face", "landmark error, whole face, of the eye distance", "%", 0.0, 0.04, at_most=True),
    ]


def reading_figures(measured: Measurements) -> tuple[list[Figure], dict[str, np.ndarray]]:
    """Figures for the coefficients read from frames, and the correlation of each coefficient (36,) by kind of frame."""
    by_column = {name: correlations(rows, measured.driving) for name, rows in measured.read.items()}
    pooled = {
        name: float(np.corrcoef(rows.ravel(), measured.driving.ravel())[0, 1]) for name, rows in measured.read.items()
    }
    figures, start = [], 0
    for bank, count in BANKS:
        mean = {name: float(np.nanmean(values[start : start + count])) for name, values in by_column.items()}
        what = f"coefficients read from a driven frame, r, {bank}"
        figures.append(Figure(f"read_{bank}", what, mean["result"], "r", mean["copy"], mean["truth"], 0.9))
        what = f"the same from a portrait exactly at rest, {bank}"
        figures.append(Figure(f"rest_read_{bank}", what, mean["rest_result"], "r", None, mean["rest_truth"]))
        start += count
    for case, words in (("", ""), ("rest_", ", from a portrait exactly at rest")):
        what, best = f"coefficients read from a driven frame, pooled{words}, r", pooled[f"{case}truth"]
        figures.append(Figure(f"{case}read", what, pooled[f"{case}result"], "r", pooled["copy"], best, 0.9))
    return figures, by_column


def person_figures(measured: Measurements) -> list[Figure]:
    """Figures for identity and emotions."""
    portraits, results, truths = (measured.embedded[name] for name in ("portrait", "result", "truth"))
    value, best = relative_distance(portraits, results, truths), relative_distance(portraits, truths)
    recognised, best_recognised = (
        float(np.mean(measured.recognised[name] == measured.emotion_labels)) for name in ("result", "truth")
    )
    return [
        Figure(
            "identity",
            "identity: distance from source to output over that between two people",
            value,
            "",
            0.0,
            best,
            0.5,
            True,
        ),
        Figure("emotions", "emotions recognised, 8 classes", recognised, "%", 1 / len(EMOTIONS), best_recognised, 0.8),
    ]


def disentanglement_figures(
    puppet: Puppet, persons: Sequence[int], size: int
) -> tuple[list[Figure], dict[str, np.ndarray]]:
    """Figures for the motion caused by single coefficients.

    Also returns for each coefficient its motion in its own region, in the rest, along the true motion and of the head,
    see `motion.UnitMotion`, and the true motion in its own region.
    """
    made, true = motion.single_unit_motions(puppet, persons, size)
    figures = [
        Figure(f"apart_{bank}", f"disentanglement, {bank}: movement in its own region over the rest",
               motion.disentanglement(made, bank), "ratio", None, motion.disentanglement(true, bank), 5.0)
        for bank, _ in BANKS
    ]  # fmt: skip
    by_unit = {}
    for name in NAMES:
        of_unit = [one for one in made if one.name == name]
        wanted = [one.own for one in true if one.name == name]
        parts = [np.mean([getattr(one, part) for one in of_unit]) if of_unit else np.nan
                 for part in ("own", "rest", "share", "head")]  # fmt: skip
        by_unit[name] = np.array([*parts, np.mean(wanted) if wanted else np.nan])
    heads = [one.head for one in made if one.bank != "pose"]
    figures.append(
        Figure(
            "apart_head", "movement of the whole head by a face unit, of the eye distance", float(np.mean(heads)), "%"
        )
    )
    return figures, by_unit


def voice_figures(
    bank: Bank, puppet: Puppet, sounds: Sequence[Path], person: int, size: int, count: int
) -> tuple[list[Figure], list[voices.MouthMotion], list[str]]:
    """Figures of lip-sync, the mouth motion of every voice, and remarks for the report.

    sounds: recordings of real voices. person: number of the test person whose portrait speaks. size: pixels of the
    frames. count: number of synthetic voices. Without an audio network there are only remarks.
    """
    if not bank.has_audio:
        return [], [], ["The bank has no audio network, so voices were not measured."]
    portrait = people.render_person(person, np.zeros((1, len(NAMES)), np.float32), size)
    puppet.show(portrait.images[0])
    made = [voices.mouth_motion(bank, heard) for heard in voices.synthetic(count)]
    heard = [voices.mouth_motion(bank, voices.real(path), puppet, portrait.points[0]) for path in sounds]
    remarks = [
        f"{one.heard.name}: {one.heard.how}; {len(one.heard.closures)} sounds /p b m/ and "
        f"{sum(end - start for start, end in one.heard.silences):.1f} s of silence found."
        for one in heard
    ]
    figures, scores = [], []
    for one in heard:
        envelope = voices.loudness(one.heard.samples, one.heard.times)
        scores.append([voices.agreement(curve, envelope) for curve in (one.seen, one.gap) if curve is not None])
    what = "real speech: lip opening in the picture against the voice's envelope"
    if scores:
        seen, asked = np.array([[r for r, _ in score] for score in scores]).mean(0)
        lag = max(abs(score[0][1]) for score in scores)
        figures += [
            Figure("speech", what, float(seen), "r", 0.0, None, 0.6),
            Figure("speech_lag", "lag of the best correlation", lag, "frames", None, 0, 1, True),
            Figure("speech_asked", "the same of the opening requested by the audio network", float(asked), "r", 0.0),
        ]
    else:
        figures.append(Figure("speech", what, None, "r", 0.0, None, 0.6))
        remarks.append("No recording of a voice was given (--voices), so real speech was not measured.")
    for key, what, spoken in (("synthetic", "held-out espeak-ng voices", made), ("real", "real speech", heard)):
        closed, rest = voices.rates(spoken) if spoken else (np.nan, np.nan)
        best = voices.rates(spoken, "true_") if key == "synthetic" else (None, None)
        figures += [
            Figure(f"closed_{key}", f"{what}: lips closed on /p b m/", closed, "%", 1.0, best[0], 0.8),
            Figure(f"rest_{key}", f"{what}: mouth at rest in silence", rest, "%", 1.0, best[1], 0.95),
        ]
    pairs = [np.concatenate([getattr(one, name) for one in made]) for name in ("gap", "true_gap")]
    figures.append(
        Figure("speech_truth", "held-out espeak-ng voices: lip opening against the true one, r",
               float(np.corrcoef(pairs[0], pairs[1])[0, 1]), "r", 0.0, 1.0)
    )  # fmt: skip
    return figures, [*made, *heard], remarks


def photograph_figures(
    puppet: Puppet, folder: Path, size: int, classifiers: Classifiers
) -> tuple[list[Figure], list[photographs.Photograph], list[str]]:
    """Figures for the pictures and clips in a folder, the driven frames, and remarks on files that were skipped."""
    acted, remarks = [], []
    for path in photographs.portraits_in(folder):
        try:
            acted.append(photographs.act(puppet, path, size, classifiers))
        except EDTalkError as error:
            remarks.append(f"{path.name} was skipped: {error.message}")
    figures = []
    clips = [one for one in acted if one.truth is not None]
    if clips:
        mean = {name: float(np.mean([getattr(clip, name) for clip in clips]))
                for name in ("psnr", "psnr_copy", "ssim", "ssim_copy")}  # fmt: skip
        what = f"{len(clips)} real clips, first frame driven by what is read from the others"
        figures += [
            Figure("clips_psnr", f"{what}: PSNR, face region", mean["psnr"], "dB", mean["psnr_copy"]),
            Figure("clips_ssim", f"{what}: SSIM, face region", mean["ssim"], "", mean["ssim_copy"], 1.0),
        ]
    if len(acted) > 1:
        between = stranger_distance(
            np.stack([one.person for one in acted]), np.stack([one.acted for one in acted])[:, None]
        )
        distance = float(np.mean([1 - one.person @ one.acted for one in acted])) / between
        what = f"{len(acted)} photographs and clips: identity as above, each of another person"
        figures.append(Figure("photographs_identity", what, distance, "", 0.0))
        if clips:
            # A still portrait is nearest to itself, but not to frames in which the person moves.
            mean = {name: float(np.mean([getattr(clip, name) for clip in clips])) / between
                    for name in ("apart", "apart_copy")}  # fmt: skip
            what = f"{len(clips)} real clips: distance from output to the true frame over that between two people"
            figures.append(Figure("clips_identity", what, mean["apart"], "", mean["apart_copy"], 0.0))
    return figures, acted, remarks


def speed_figures(bank: Bank) -> list[Figure]:
    """Frames per second of the bank, with and without detail, and of a bank of LARGE pixels."""
    size = bank.config.size
    own = measure.frames_per_second(bank)
    sharp = measure.frames_per_second(bank, detail=LARGE) if size <= LARGE else None
    figures = [
        Figure("speed_detail", f"FaceRenderer.render with detail at {LARGE} px, two CPU cores, frames", sharp, "fps")
    ]
    if size == LARGE:
        what = f"FaceRenderer.render, two CPU cores, {size} px, frames"
        return [Figure("speed", what, own, "fps", target=25.0), *figures]
    large = measure.frames_per_second(RandomBank.of(small_config(LARGE)))
    return [
        Figure("speed_own", f"FaceRenderer.render, two CPU cores, {size} px, frames", own, "fps"),
        Figure("speed", f"a {LARGE} px bank of this architecture, random weights: frames", large, "fps", target=25.0),
        *figures,
    ]
