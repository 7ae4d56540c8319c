"""`blender --command edtalk ...`: the artist's work without a window. Each command is a function for scripts, too.

blender --command edtalk --save-as shot.blend add-character me.png --name Anna
blender --command edtalk --blend shot.blend --save lip-sync --sound line.wav --character Anna
blender --command edtalk --blend shot.blend --save render
blender --command edtalk --blend shot.blend export shot.mp4
blender --command edtalk --save-as dub.blend dub film.mp4 --sound line.wav
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy

from ..inference.contract.errors import EDTalkError
from . import compat, follow
from .character import character, portrait
from .engine import session
from .lipsync import lipsync
from .render import dub as dub_operator
from .render import face_shot, face_strip, operators, render
from .timeline import footage, sequencer

NAME = "edtalk"
_FAILED, _MISUSED = 1, 2  # exit codes

_command: object | None = None


# --- For scripts


def add_character(
    scene: bpy.types.Scene, picture: str | os.PathLike[str], *, name: str = "", bank: str = ""
) -> bpy.types.Object:
    """A new character with its rest pose read from its portrait; waits for that. Raises EDTalkError."""
    path = os.path.abspath(picture)
    character.check_picture(path)
    obj = character.create(scene, path, bank and os.path.abspath(bank), name)
    session.wait(portrait.measure(obj))
    return obj


def add_sound(scene: bpy.types.Scene, sound: str | os.PathLike[str], *, frame: int | None = None) -> bpy.types.Strip:
    """A sound strip of a whole file, on the lowest free channel; EDTalkError for a file that is not there."""
    path = Path(os.path.abspath(sound))
    if not path.is_file():
        raise EDTalkError(f"The sound {path} does not exist.", "Check the path.", "media")
    start = scene.frame_start if frame is None else frame
    strip = compat.new_sound(scene, path.stem, path, sequencer.LAST_CHANNEL, start)
    strip.channel = sequencer.free_channel(scene, compat.left_handle(strip), compat.right_handle(strip))
    return strip


def lip_sync(
    scene: bpy.types.Scene, strips: Sequence[bpy.types.Strip], obj: bpy.types.Object | None = None
) -> list[bpy.types.Strip]:
    """Lip-sync strips, to one character or each to its own, and wait; returns the strips that were done.

    Raises EDTalkError for the first that cannot be; the others are done all the same.
    """
    tasks, names, failed = [], [], []
    for strip in strips:
        try:
            speaker = obj or sequencer.speaker(strip)
            if speaker is None:
                raise EDTalkError(f"'{strip.name}' belongs to no character yet.", "Say which one with --character.")
            tasks.append(lipsync.lip_sync(scene, strip, speaker))
            names.append(strip.name)
        except EDTalkError as error:
            failed.append(error)
    try:
        session.wait(*(task for task in tasks if task))
    except EDTalkError as error:
        failed.append(error)
    if failed:
        raise failed[0]
    return [strip for strip in compat.strips(scene) if strip.name in names]


def render_faces(
    scene: bpy.types.Scene, objs: Sequence[bpy.types.Object], which: str = "AUTO"
) -> dict[str, face_shot.Plan]:
    """Render characters' faces into strips and wait; returns by name what there was to do. Raises EDTalkError."""
    if sequencer.settings(scene).follow:
        follow.follow(scene)
    for obj in objs:
        face_shot.render_ranges(scene, obj, which)  # is said before anything is asked or changed
    plans: dict[str, face_shot.Plan] = {}

    def tell(name: str, plan: face_shot.Plan) -> None:
        plans[name] = plans[name].plus(plan) if name in plans else plan

    session.wait(*(session.Chain(render.steps(scene, obj, which, tell)) for obj in objs))
    return plans


def add_movie(scene: bpy.types.Scene, movie: str | os.PathLike[str], *, frame: int | None = None) -> bpy.types.Strip:
    """A movie strip of a whole film, on the lowest free channel; EDTalkError for a file that is missing or no film."""
    path = Path(os.path.abspath(movie))
    if not path.is_file():
        raise EDTalkError(f"The film {path} does not exist.", "Check the path.", "media")
    footage.film_frames(path)
    start = scene.frame_start if frame is None else frame
    strip = compat.new_movie(scene, path.stem, path, sequencer.LAST_CHANNEL, start)
    strip.channel = sequencer.free_channel(scene, compat.left_handle(strip), compat.right_handle(strip))
    return strip


def dub(
    scene: bpy.types.Scene,
    strips: Sequence[bpy.types.Strip],
    sounds: Sequence[bpy.types.Strip] = (),
    obj: bpy.types.Object | None = None,
) -> dict[str, face_shot.Plan]:
    """Dub movie strips by a character, a new one by default, that speaks the sounds, and wait; returns by its name
    what there was to do. Raises EDTalkError."""
    if sequencer.settings(scene).follow:
        follow.follow(scene)
    plans: dict[str, face_shot.Plan] = {}

    def tell(name: str, plan: face_shot.Plan) -> None:
        plans[name] = plans[name].plus(plan) if name in plans else plan

    session.wait(dub_operator.begin(scene, strips, obj, sounds, tell=tell))
    return plans


def status(scene: bpy.types.Scene) -> dict[str, Any]:
    """What there is: the engine, and for each character its strips and what is missing."""
    found = session.find_engine()
    return {
        "engine": {"state": found.state.value, "python": str(found.python or ""), "reason": found.reason},
        "fps": sequencer.fps(scene),
        "characters": [
            {
                "name": obj.name,
                "bank": character.bank_path(obj).name,
                "dialogue": [strip.name for strip in sequencer.dialogue(scene, obj)],
                "faces": {
                    strip.name: {"frames": len(strip.elements), "waiting": face_strip.waiting_frames(strip)}
                    for strip in sequencer.faces(scene, obj)
                },
            }
            for obj in character.characters(scene)
        ],
        "out of place": [change.strip.name for change in follow.changes(scene)],
    }


# --- The command line


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code: 0, 1 for what went wrong, 2 for what was not understood."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        if options.blend:
            _open(options.blend)
        scene = _scene(options.scene)
        options.run(scene, options)
        if options.save or options.save_as:
            _save(options.save_as)
    except EDTalkError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return _FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"blender --command {NAME}", description="Talking faces without a window.")
    parser.add_argument("--blend", metavar="FILE", help="the .blend to open; without it, the one that is open")
    parser.add_argument("--scene", metavar="NAME", help="the scene to work on; without it, the active one")
    parser.add_argument("--save", action="store_true", help="save the .blend afterwards")
    parser.add_argument("--save-as", metavar="FILE", help="save it afterwards under this name")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("add-character", help="add a talking face")
    command.add_argument("portrait", help="the picture that is brought to life")
    command.add_argument("--name", default="", help="what it is called; without it, as its portrait's file")
    command.add_argument("--bank", default="", help="a .safetensors bank; without it, the starter bank")
    command.set_defaults(run=_add_character)

    command = commands.add_parser("lip-sync", help="turn dialogue into mouth animation")
    command.add_argument("--sound", metavar="FILE", help="add this sound as a strip first, and lip-sync it alone")
    command.add_argument("--frame", type=int, help="where --sound begins; without it, where the scene does")
    command.add_argument("--strip", action="append", default=[], metavar="NAME", help="a sound strip; may be repeated")
    command.add_argument("--character", metavar="NAME", help="who speaks; without it, as strips say or the only one")
    command.set_defaults(run=_lip_sync)

    command = commands.add_parser("render", help="render faces into strips; only frames that changed")
    command.add_argument("--character", action="append", default=[], metavar="NAME", help="without it, everybody")
    ranges = [name.lower() for name, _label, _tip in sequencer.RENDER_RANGES]
    command.add_argument("--range", choices=ranges, default="auto", help="frames to render (default: %(default)s)")
    command.set_defaults(run=_render)

    command = commands.add_parser("dub", help="give the face in a film another mouth, in a strip above it")
    command.add_argument("movie", help="a film, which is added as a strip first, or the name of a movie strip")
    command.add_argument("--sound", metavar="FILE", help="what is spoken; it begins with the film")
    command.add_argument("--frame", type=int, help="where an added film begins; without it, where the scene does")
    command.add_argument("--character", metavar="NAME", help="whose mouth; without it, a new one's")
    command.set_defaults(run=_dub)

    command = commands.add_parser("export", help="render the sequencer, faces and sound, into an MP4 file")
    command.add_argument("movie", metavar="FILE")
    command.set_defaults(run=_export)

    command = commands.add_parser("status", help="what there is, as JSON")
    command.set_defaults(run=_status)
    return parser


def _add_character(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    obj = add_character(scene, options.portrait, name=options.name, bank=options.bank)
    print(f"Added {obj.name}.")


def _lip_sync(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    obj = _character(scene, options.character) if options.character else None
    if options.sound:
        strips = [add_sound(scene, options.sound, frame=options.frame)]
    elif options.strip:
        strips = [_strip(scene, name) for name in options.strip]
    else:
        strips = [strip for strip in compat.strips(scene) if strip.type == "SOUND"]
        strips = [strip for strip in strips if obj or sequencer.is_dialogue(strip)] or strips
    if not strips:
        raise EDTalkError("There is no sound in the sequencer.", "Add some with --sound.")
    known = character.characters(scene)
    if obj is None and len(known) == 1:
        obj = known[0]
    done = lip_sync(scene, strips, obj)
    print(f"Lip-synced {sequencer.quoted(strip.name for strip in done)}.")


def _render(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    objs = [_character(scene, name) for name in options.character] or character.characters(scene)
    if not objs:
        raise EDTalkError("There is no character in the scene.", "Add one with add-character.")
    for name, plan in render_faces(scene, objs, options.range.upper()).items():
        print(f"{name}: {plan.missing} frames rendered, {plan.reused} were there already.")


def _dub(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    obj = _character(scene, options.character) if options.character else None
    known = {strip.name: strip for strip in compat.strips(scene) if strip.type == "MOVIE"}
    strip = known.get(options.movie) or add_movie(scene, options.movie, frame=options.frame)
    sounds = [add_sound(scene, options.sound, frame=compat.left_handle(strip))] if options.sound else []
    for name, plan in dub(scene, [strip], sounds, obj or sequencer.speaker(strip)).items():
        print(f"{name}: {plan.missing} frames rendered, {plan.reused} were there already.")


def _export(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    print(f"Wrote {operators.export_movie(scene, os.path.abspath(options.movie))}.")


def _status(scene: bpy.types.Scene, _options: argparse.Namespace) -> None:
    print(json.dumps(status(scene), indent=1))


def _open(file: str) -> None:
    path = os.path.abspath(file)
    if not os.path.isfile(path):
        raise EDTalkError(f"{path} does not exist.", "Check the path.")
    try:
        bpy.ops.wm.open_mainfile(filepath=path)
    except RuntimeError as error:
        raise EDTalkError(f"{path} cannot be opened: {error}") from error


def _save(file: str | None) -> None:
    path = os.path.abspath(file) if file else bpy.data.filepath
    if not path:
        raise EDTalkError("The .blend has no name yet.", "Give it one with --save-as FILE.")
    try:
        bpy.ops.wm.save_as_mainfile(filepath=path)
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be saved: {error}", "Choose another place.", "disk") from error


def _scene(name: str | None) -> bpy.types.Scene:
    return _named(bpy.data.scenes, name, "scene") if name else bpy.context.scene


def _character(scene: bpy.types.Scene, name: str) -> bpy.types.Object:
    return _named({obj.name: obj for obj in character.characters(scene)}, name, "character")


def _strip(scene: bpy.types.Scene, name: str) -> bpy.types.Strip:
    return _named({strip.name: strip for strip in compat.strips(scene) if strip.type == "SOUND"}, name, "sound strip")


def _named(known: Any, name: str, what: str) -> Any:
    if name not in known:
        names = sequencer.quoted(known.keys(), most=10) or "none"
        raise EDTalkError(f"There is no {what} '{name}'; there is {names}.")
    return known[name]


def register() -> None:
    global _command
    _command = bpy.utils.register_cli_command(NAME, main)


def unregister() -> None:
    bpy.utils.unregister_cli_command(_command)
