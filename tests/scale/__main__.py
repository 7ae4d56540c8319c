"""Costs against frames, sizes, characters and keys; by hand: python -m tests.scale PART [--json FILE] ...

addon    the add-on's processor time in Blender as a Python module:  .venv/blender-5.0/bin/python -m tests.scale addon
engine   processor time and memory of renders:                       .venv/worker/bin/python -m tests.scale engine
report   charts and the table of a farm from the files of both:      ... report ADDON.json ENGINE.json --chart FILE.svg

The first two take some minutes each. They measure processor time, so that other programs matter little.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .charts import Chart, svg
from .farm import Cost, makespan, shot_lengths, total

MACHINES = 1, 4, 10, 25, 50, 100, 250
CHUNKS = 50, 250
SHOTS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("addon", "engine"):
        parts.add_parser(name).add_argument("--json", type=Path, required=True, help="the file for the figures")
    report = parts.add_parser("report")
    report.add_argument("addon", type=Path)
    report.add_argument("engine", type=Path)
    report.add_argument("--chart", type=Path, help="the SVG file to write")
    args = parser.parse_args()
    if args.part == "report":
        addon, engine = (json.loads(path.read_text()) for path in (args.addon, args.engine))
        if args.chart:
            args.chart.write_text(svg(charts(addon, engine)), encoding="utf-8")
        print(farm_table(engine))
        return
    if args.part == "addon":
        from . import addon as measured
    else:
        from . import engine as measured
    args.json.write_text(json.dumps(measured.run(), indent=1))


def charts(addon: dict[str, Any], engine: dict[str, Any]) -> list[Chart]:
    """One chart for each: frames, timer, resolution, memory, characters, files, keys, and machines of a farm."""

    def lines(found: dict[str, Any], factor: float, **names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            label: [(int(count), factor * one[key]) for count, one in found.items()]
            for key, label in ((key, label.replace("_", " ")) for key, label in names.items())
        }

    render = engine["render"]
    cost, shots = cost_of(engine), shot_lengths(SHOTS)
    spans = [(machines, makespan(shots, machines, CHUNKS[-1], cost) / 3600) for machines in MACHINES]
    by_size = {f"{size} px": [(int(count), one["s"]) for count, one in found.items()] for size, found in render.items()}
    peaks = {
        f"{size} px": [(int(count), one["peak_mib"]) for count, one in found.items()] for size, found in render.items()
    }
    frames, files = addon["frames"], addon["files"]
    return [
        Chart("Render Face in Blender", "frames of the shot", "ms",
              lines(frames, 1e3, render_face_s="in all", longest_prepare_s="longest step",
                    longest_commit_s="adding the strip")),
        Chart("One call of the timer", "frames of the shot", "ms",
              lines(frames, 1e3, longest_tick_s="results", longest_check_step_s="check for changes",
                    longest_survey_step_s="counting frames")),
        Chart("Rendering in one thread", "frames", "s", by_size),
        Chart("Peak memory of rendering", "frames", "MiB", peaks),
        Chart("Characters with 250 frames each", "characters", "ms",
              lines(addon["characters"], 1e3, render_face_s="Render Face for all", check_s="check for changes",
                    longest_tick_s="longest call of the timer")),
        Chart("Files in the cache", "files", "ms",
              lines(files, 1e3, use_s="first disk use, in a thread", longest_survey_step_s="longest step of counting",
                    longest_delete_step_s="longest step of deleting")),
        Chart("Keyframes of one slider", "keyframes", "ms",
              lines(addon["keys"], 1e3, write_s="write all", insert_s="insert one",
                    sample_1000_s="sample 1,000 frames")),
        Chart(f"1,000 shots on a farm, {CHUNKS[-1]} frames per task", "machines", "hours",
              {"makespan": spans}),
    ]  # fmt: skip


def cost_of(engine: dict[str, Any]) -> Cost:
    """The costs of one core at 512 px."""
    return Cost(engine["start_512_s"], engine["frame_512_s"], engine["encode_start_s"], engine["encode_frame_s"])


def farm_table(engine: dict[str, Any]) -> str:
    """Makespan and share of the machines' time that is used, for each number of machines, as Markdown."""
    cost, shots = cost_of(engine), shot_lengths(SHOTS)
    rows = [
        f"{SHOTS:,} shots, {sum(shots):,} frames, the longest {max(shots):,}; {1e3 * cost.frame:.0f} ms per frame, "
        f"{cost.start:.1f} s per task, encoding {cost.encode_start:.1f} s and {1e3 * cost.encode_frame:.1f} ms a frame",
        "",
        "| machines | " + " | ".join(f"{chunk} frames per task | used" for chunk in CHUNKS) + " |",
        "|---|" + "---|---|" * len(CHUNKS),
    ]
    for machines in MACHINES:
        cells = []
        for chunk in CHUNKS:
            span = makespan(shots, machines, chunk, cost)
            cells += [f"{span / 60:,.1f} min", f"{total(shots, chunk, cost) / machines / span:.0%}"]
        rows.append(f"| {machines} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
