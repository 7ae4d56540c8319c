"""`convert`, `inspect`, `bench` and `selftest`: commands for banks and the installation."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.errors import EDTalkError
from . import options

PACKAGES = ("numpy", "torch", "safetensors", "av", "opencv-python", "pillow", "librosa", "soxr", "mediapipe")


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="EDTalk's checkpoints -> bank",
        description="Convert the checkpoints that EDTalk publishes to a bank. No code in them is executed.",
    )
    parser.add_argument("--generator", type=Path, required=True, metavar="FILE", help="EDTalk.pt or EDTalk_lip_pose.pt")
    parser.add_argument("--audio2lip", type=Path, metavar="FILE", help="Audio2Lip.pt, for lip-sync from sound")
    parser.add_argument("--presets", type=Path, metavar="FOLDER", help="predefined_exp_weights, for --emotion")
    parser.add_argument("--out", type=Path, required=True, metavar="BANK", help="the .safetensors file to write")
    parser.add_argument("--name", help="the bank's name (default: the generator's file name)")
    options.add_overwrite(parser)
    parser.add_argument("--json", action="store_true", help="print the report as a JSON object")
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser(
        "inspect",
        help="show the content of a bank or checkpoint",
        description="Show the sizes, coefficients with ranges, emotions and origin of a bank or checkpoint.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", help="(default: the embedded starter bank)")
    parser.add_argument("--json", action="store_true", help="print the result as a JSON object")
    parser.set_defaults(run=run_inspect)

    parser = commands.add_parser(
        "bench",
        help="measure the speed of this machine",
        description="Measure the time per frame, the fraction of the machine's matrix multiplication rate that it "
        "reaches, the start-up time and the peak memory.",
    )
    parser.add_argument(
        "--bank", type=Path, metavar="FILE", help="(default: random weights of the published size, 256 px)"
    )
    parser.add_argument(
        "--frames", type=options.positive, default=20, metavar="N", help="number of frames (default 20)"
    )
    parser.add_argument(
        "--upstream", action="store_true", help="also measure the computation of EDTalk's demos, on the CPU"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="measure the starter bank at several sizes, alone and beside a busy loop, the published size, start-up, "
        "lip sync, previews, capture and dubbing (some minutes)",
    )
    parser.add_argument("--chart", type=Path, metavar="SVG", help="with --all, draw the parts of a frame's time")
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON object")
    parser.set_defaults(run=run_bench)

    parser = commands.add_parser(
        "selftest",
        help="check the installation",
        description="Check versions and the device, render a frame and lip-sync a sound with the embedded bank. "
        "Include the output in bug reports. Exit code 0 if all checks pass, else 1.",
    )
    options.add_bank(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the results as a JSON object")
    parser.set_defaults(run=run_selftest)


def run_convert(args: argparse.Namespace) -> None:
    options.check_free(args.out, args.overwrite, suffixes=(".safetensors",))
    from ..model.convert import convert

    report = convert(args.generator, args.audio2lip, args.presets, args.out, name=args.name)
    print(json.dumps(report.to_json()) if args.json else report)


def run_inspect(args: argparse.Namespace) -> None:
    from ..contract.bank import STARTER
    from ..model.convert import format_inspect, inspect

    found = inspect(args.file or STARTER)
    print(json.dumps(found) if args.json else format_inspect(found))


def run_bench(args: argparse.Namespace) -> None:
    if args.all:
        _bench_all(args)
        return
    if args.chart:
        raise EDTalkError("--chart requires --all.", "Add --all, or leave --chart out.")
    bank = options.load_bank_for(args) if args.bank else None
    from . import bench

    figures = bench.run(bank, args.frames, args.device, args.threads, compare_upstream=args.upstream)
    print(json.dumps(figures) if args.json else bench.format_text(figures))


def _bench_all(args: argparse.Namespace) -> None:
    from . import bench_all

    figures = bench_all.run(args.device, args.threads)
    if args.chart:
        args.chart.write_text(bench_all.chart(figures), encoding="utf-8")
    print(json.dumps(figures, indent=1) if args.json else bench_all.format_text(figures))


def run_selftest(args: argparse.Namespace) -> int:
    findings = selftest(args)
    if args.json:
        print(json.dumps(findings))
    else:
        for name, value in findings.items():
            for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
                print(f"{key:<24} {entry}")
    return 0 if findings["ok"] else 1


def selftest(args: argparse.Namespace) -> dict[str, Any]:
    """The result of every check by name, and "ok": whether all passed. A failed check does not stop the others."""
    findings: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.platform()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
    }
    failures = []

    def check(name: str, what: Any) -> None:
        try:
            findings[name] = what()
        except EDTalkError as error:
            findings[name] = f"FAILED: {error}"
            failures.append(name)
        except Exception as error:
            findings[name] = f"FAILED: {type(error).__name__}: {error}"
            failures.append(name)

    check("face_detector", _face_detector)
    bank = None

    def load() -> str:
        nonlocal bank
        bank = options.load_bank_for(args)
        return f"{bank.name}, {bank.config.size} px, {len(bank.names)} coefficients, sha256 {bank.sha256[:12]}"

    check("bank", load)
    if bank is not None:
        check("render", lambda: _render_one(bank, args))
        if bank.has_audio:
            check("lip_sync", lambda: _lip_sync_tone(bank))
    findings["ok"] = not failures
    return findings


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _face_detector() -> str:
    from ..face.detect import detect_faces

    return f"works, {len(detect_faces(np.zeros((64, 64, 3), np.uint8)))} faces in a black image"


def _render_one(bank: Any, args: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    renderer = options.make_renderer(bank, args)
    size = bank.config.size
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    renderer.set_source(np.repeat(np.broadcast_to(ramp, (size, size))[..., None], 3, axis=2))
    rows = renderer.source_coefficients
    next(iter(renderer.render(rows)))
    ready = time.perf_counter()
    (frame,) = renderer.render(rows)
    if frame.shape != (size, size, 3) or frame.dtype != np.uint8:
        raise EDTalkError(f"Expected an image of {size} x {size} pixels, found {frame.dtype} {frame.shape}.")
    return {
        "device": str(renderer.device),
        "start-up s": round(ready - started, 2),
        "ms per frame": round((time.perf_counter() - ready) * 1000, 1),
    }


def _lip_sync_tone(bank: Any) -> str:
    from ..lipsync import frame_times, lip_sync

    rate = 16_000
    tone = np.sin(np.arange(rate) * (2 * np.pi * 220 / rate)).astype(np.float32) * 0.3
    started = time.perf_counter()
    lips = lip_sync(tone, rate, frame_times(1.0, 25), bank)
    if not np.isfinite(lips).all():
        raise EDTalkError("The lip-sync network returned values that are not finite.")
    return f"works, {len(lips)} frames of 1 s of tone in {(time.perf_counter() - started) * 1000:.0f} ms"
