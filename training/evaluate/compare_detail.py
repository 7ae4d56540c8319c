"""Compare detail transfer with plain enlargement, by figures and side by side.

    python -m training compare-detail --picture docs/detail.jpg [--bank BANK] [--photographs FOLDER]

Prints the tables of docs/detail.md. Rendered people, none of them trained on, have true pictures at every size; frames
of photographs are compared with the portrait. Identity is the distance between dlib's face descriptors, measured only
if `dlib-bin` and `face-recognition-models` are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inference.contract.bank import STARTER, load_bank
from inference.contract.plate import PICTURES
from inference.face.detect import detect_faces
from inference.face.framing import cut, cut_at, frame_picture
from inference.media.picture import load_picture
from inference.renderer import FaceRenderer
from training.evaluate import people
from training.evaluate.pictures import face_boxes, psnr, ssim

SIZES = (512, 1024)
FRAMES = 4  # driven frames per person
WAYS = {"bicubic": cv2.INTER_CUBIC, "Lanczos": cv2.INTER_LANCZOS4}
SHOWN, TILE, CAPTION = 4, 320, 28  # people in the picture; pixels of its tiles and of its titles

Figures = dict[str, list[float]]
Embedding = Callable[[np.ndarray], np.ndarray | None]


def pictures_of(renderer: FaceRenderer, portrait: np.ndarray, rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """(T, size, size, 3) uint8 for each enlargement and for "detail". rows: (T, n) differences from the portrait."""
    renderer.set_source(portrait)
    rows = (renderer.source_coefficients.values[:, : rows.shape[1]] + rows).astype(np.float32)
    small = list(renderer.render(rows))
    ways = {
        name: np.stack([cv2.resize(one, (size, size), interpolation=how) for one in small])
        for name, how in WAYS.items()
    }
    renderer.set_source(portrait, resized(portrait, size))
    return ways | {"detail": np.stack(list(renderer.render(rows)))}


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 at `size` x `size` pixels."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((size, size)))


def band(picture: np.ndarray, network: int, box: Sequence[int]) -> np.ndarray:
    """High frequencies of the luma inside a box: those that a picture of `network` pixels cannot represent."""
    luma = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
    held = cv2.resize(luma, (network, network), interpolation=cv2.INTER_AREA)
    left, top, right, bottom = box
    return (luma - cv2.resize(held, luma.shape, interpolation=cv2.INTER_CUBIC))[top:bottom, left:right]


def fineness(picture: np.ndarray, truth: np.ndarray, network: int, boxes: Sequence[Sequence[int]]) -> float:
    """Energy of the high frequencies relative to the truth. boxes: face boxes in picture and truth."""
    one, other = (band(image, network, box) for image, box in zip((picture, truth), boxes, strict=True))
    return float(np.square(one).mean() / np.square(other).mean())


def dlib_embedding() -> Embedding | None:
    """A function that returns the descriptor (128,) of a face, or None without a face. None if dlib is missing."""
    if not (importlib.util.find_spec("dlib") and (models := importlib.util.find_spec("face_recognition_models"))):
        return None
    import dlib

    folder = Path(models.origin or "").parent / "models"
    landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
    detector = dlib.get_frontal_face_detector()

    def embedding(picture: np.ndarray) -> np.ndarray | None:
        small = resized(picture, 256)  # the network uses 150 pixels
        found = detector(small, 0)
        if not found:
            return None
        return np.array(network.compute_face_descriptor(small, landmarks(small, found[0])))

    return embedding


def of_people(bank_path: Path, count: int, embedding: Embedding | None) -> tuple[dict[str, Figures], np.ndarray]:
    """Figures of rendered people by size and enlargement, and a picture of some of them."""
    renderer, tiles = FaceRenderer(load_bank(bank_path)), []
    network = renderer.config.size
    figures: dict[str, Figures] = {}
    for person in range(people.FIRST, people.FIRST + count):
        rows = people.evaluation_rows(person)[: FRAMES + 1]
        shots = people.render_person(person, rows, max(SIZES))
        for size in SIZES:
            portrait, *truth = (resized(image, size) for image in shots.images)
            boxes = face_boxes(shots.points[1:], size)
            known = embedding(portrait) if embedding else None
            for way, pictures in pictures_of(renderer, portrait, rows[1:] - rows[:1], size).items():
                found = figures.setdefault(f"{size} px, {way}", {})
                _add(found, "PSNR", psnr(pictures, np.stack(truth), boxes))
                _add(found, "SSIM", ssim(pictures, np.stack(truth), boxes))
                compared = zip(pictures, truth, boxes, strict=True)
                fine = [fineness(one, other, network, (box, box)) for one, other, box in compared]
                _add(found, "high frequencies", fine)
                if embedding and known is not None:
                    _add(found, "identity", _distances(embedding, known, pictures))
                if size == min(SIZES) and person - people.FIRST < SHOWN and way in ("Lanczos", "detail"):
                    tiles.append({"portrait": portrait, "truth": truth[0]} | {way: pictures[0]})
            if embedding and known is not None:
                _add(figures.setdefault(f"{size} px, truth", {}), "identity", _distances(embedding, known, truth))
        print(person, flush=True)
    titles = {
        "portrait": "portrait",
        "Lanczos": f"{network} px, enlarged",
        "detail": "detail transfer",
        "truth": "truth",
    }
    return figures, _sheet([one | other for one, other in zip(tiles[::2], tiles[1::2], strict=True)], titles)


def _sheet(rows: Sequence[dict[str, np.ndarray]], titles: dict[str, str]) -> np.ndarray:
    """A picture with one person per row and one column per title."""
    sheet = Image.new("RGB", (TILE * len(titles), CAPTION + TILE * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, (name, title) in enumerate(titles.items()):
        pen.text((column * TILE + 6, 4), title, "black", font)
        for row, pictures in enumerate(rows):
            sheet.paste(Image.fromarray(resized(pictures[name], TILE)), (column * TILE, CAPTION + row * TILE))
    return np.asarray(sheet)


def of_photographs(bank_path: Path, folder: Path, embedding: Embedding | None) -> dict[str, Figures]:
    """Figures of real faces, compared with their portraits."""
    renderer = FaceRenderer(load_bank(bank_path))
    network = renderer.config.size
    figures: dict[str, Figures] = {}
    rows = people.evaluation_rows(people.FIRST)[: FRAMES + 1]
    for picture in _faces(folder):
        for size in SIZES:
            crop = frame_picture(picture, network)
            portrait = cut(picture, crop) if size == network else cut_at(picture, crop, size)
            box = _box(portrait)
            known = embedding(portrait) if embedding else None
            for way, pictures in pictures_of(renderer, portrait, rows[1:] - rows[:1], size).items():
                found = figures.setdefault(f"{size} px, {way}", {})
                _add(found, "high frequencies", [fineness(one, portrait, network, (box, box)) for one in pictures])
                if embedding and known is not None:
                    _add(found, "identity", _distances(embedding, known, pictures))
    return figures


def _faces(folder: Path) -> Iterator[np.ndarray]:
    """All pictures of a folder, and the first frames of its movies."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield load_picture(path).rgb
        elif path.suffix.lower() in (".mp4", ".mov", ".mkv"):
            capture = cv2.VideoCapture(str(path))
            seen, frame = capture.read()
            capture.release()
            if seen:
                yield np.ascontiguousarray(frame[..., ::-1])


def _box(portrait: np.ndarray) -> tuple[int, int, int, int]:
    """Box of the largest face; the centre of the picture if none is found."""
    size = len(portrait)
    faces = detect_faces(portrait, upright_only=True)
    centre = (0.2 * size, 0.2 * size, 0.6 * size, 0.6 * size)
    x, y, width, height = max(faces, key=lambda face: face.box[2]).box if faces else centre
    return max(0, int(x)), max(0, int(y)), min(size, int(x + width)), min(size, int(y + height))


def _distances(embedding: Embedding, known: np.ndarray, pictures: Iterable[np.ndarray]) -> list[float]:
    found = [embedding(picture) for picture in pictures]
    return [float(np.linalg.norm(one - known)) for one in found if one is not None]


def _add(figures: Figures, name: str, values: Iterable[float]) -> None:
    figures.setdefault(name, []).extend(float(value) for value in values)


def table(figures: dict[str, Figures]) -> str:
    """Markdown table of mean values."""
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for way, found in sorted(figures.items(), key=lambda item: int(item[0].split()[0])):
        cells = [f"{np.mean(found[name]):.3f}" if name in found else "" for name in names]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Compare with the options of `add_options`, and print the tables."""
    embedding = dlib_embedding()
    figures, picture = of_people(args.bank, args.people, embedding)
    parts = [f"## {args.people} rendered people\n\n{table(figures)}"]
    if args.photographs:
        parts.append(f"## Photographs\n\n{table(of_photographs(args.bank, args.photographs, embedding))}")
    Image.fromarray(picture).save(args.picture, quality=88)
    print("\n\n".join(parts))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--bank", type=Path, default=STARTER, help="bank (default: the starter bank)")
    parser.add_argument("--people", type=int, default=24, help="number of rendered people (default 24)")
    parser.add_argument("--photographs", type=Path, help="folder of real pictures and clips")
    parser.add_argument("--picture", type=Path, required=True, help="file for the side-by-side picture")
