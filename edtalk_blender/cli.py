"""The command line `blender --command edtalk`, and the same commands as functions for scripts.

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
from .character import character, files, rest_pose
from .engine import session
from .lipsync import lipsync
from .render import dub as dub_operator
from .render import export, face_shot, face_strip, render
from .timeline import footage, sequencer

NAME = "edtalk"
_FAILED = 1  # exit code of an error; argparse itself uses 2 for wrong arguments

_command: object | None = None  # Blender's handle of the registered command, needed to unregister it


# --- For scripts


def add_character(
    scene: bpy.types.Scene, picture: str | os.PathLike[str], *, name: str = "", bank: str = ""
) -> bpy.types.Object:
    """Create a character and wait until its rest pose has been read from the portrait.

    picture: path of the portrait. bank: path of a bank; empty: the starter bank. Raises EDTalkError, having
    removed the character, if the engine cannot use the portrait.
    """
    path = os.path.abspath(picture)
    files.check_picture(path)
    obj = character.create(scene, path, bank and os.path.abspath(bank), name)
    try:
        session.wait(rest_pose.measure(obj))
    except EDTalkError:
        character.remove(obj)
        raise
    return obj


def add_sound(scene: bpy.types.Scene, sound: str | os.PathLike[str], *, frame: int | None = None) -> bpy.types.Strip:
    """Add a sound strip of a whole file on the lowest free channel. frame: default is the scene's start frame.

    Raises EDTalkError if the file does not exist.
    """
    path = Path(os.path.abspath(sound))
    if not path.is_file():
        raise EDTalkError(f"The sound file {path} does not exist.", "Check the path.", "media")
    start = scene.frame_start if frame is None else frame
    strip = compat.new_sound(scene, path.stem, path, sequencer.LAST_CHANNEL, start)
    strip.channel = sequencer.free_channel(scene, compat.left_handle(strip), compat.right_handle(strip))
    return strip


def lip_sync(
    scene: bpy.types.Scene, strips: Sequence[bpy.types.Strip], obj: bpy.types.Object | None = None
) -> list[bpy.types.Strip]:
    """Lip-sync strips and wait. Returns the strips that succeeded.

    obj: the speaker of all strips; None: each strip's own. Raises the first EDTalkError after all strips were tried.
    """
    tasks, names, failed = [], [], []
    for strip in strips:
        try:
            speaker = obj or sequencer.speaker(strip)
            if speaker is None:
                raise EDTalkError(f"'{strip.name}' has no speaker.", "Choose one with --character.")
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
    """Render the faces of characters to image strips and wait. which: an item of `sequencer.RENDER_RANGES`.

    Returns the plans by character name: frames rendered and reused. Raises EDTalkError.
    """
    if sequencer.settings(scene).follow:
        follow.follow(scene)
    for obj in objs:
        face_shot.render_ranges(scene, obj, which)  # raises an error before anything is changed
    plans: dict[str, face_shot.Plan] = {}

    def add(name: str, plan: face_shot.Plan) -> None:
        plans[name] = plans[name].plus(plan) if name in plans else plan

    session.wait(*(session.Chain(render.steps(scene, obj, which, add)) for obj in objs))
    return plans


def add_movie(scene: bpy.types.Scene, movie: str | os.PathLike[str], *, frame: int | None = None) -> bpy.types.Strip:
    """Add a movie strip of a whole file on the lowest free channel. frame: default is the scene's start frame.

    Raises EDTalkError if the file is missing or not a readable movie.
    """
    path = Path(os.path.abspath(movie))
    if not path.is_file():
        raise EDTalkError(f"The movie {path} does not exist.", "Check the path.", "media")
    footage.movie_frames(path)
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
    """Dub movie strips with sounds and wait. obj: the character to use; None: a new one.

    Returns the plans by character name: frames rendered and reused. Raises EDTalkError.
    """
    if sequencer.settings(scene).follow:
        follow.follow(scene)
    plans: dict[str, face_shot.Plan] = {}

    def add(name: str, plan: face_shot.Plan) -> None:
        plans[name] = plans[name].plus(plan) if name in plans else plan

    session.wait(dub_operator.begin(scene, strips, obj, sounds, on_plan=add))
    return plans


def status(scene: bpy.types.Scene) -> dict[str, Any]:
    """State of the engine, of the characters with their strips, and of strips that moved away from their keys."""
    found = session.find_engine()
    return {
        "engine": {"state": found.state.value, "python": str(found.python or ""), "reason": found.reason},
        "fps": sequencer.fps(scene),
        "characters": [
            {
                "name": obj.name,
                "bank": files.bank_path(obj).name,
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
    """Run one command. Returns its exit code: 0 for success, 1 for an error, 2 for wrong arguments."""
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
    parser = argparse.ArgumentParser(
        prog=f"blender --command {NAME}", description="Talking-head animation in background mode."
    )
    parser.add_argument("--blend", metavar="FILE", help=".blend file to open (default: the open file)")
    parser.add_argument("--scene", metavar="NAME", help="scene to use (default: the active scene)")
    parser.add_argument("--save", action="store_true", help="save the .blend file afterwards")
    parser.add_argument("--save-as", metavar="FILE", help="save the .blend file under this name afterwards")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("add-character", help="add a character")
    command.add_argument("portrait", help="portrait image to animate")
    command.add_argument("--name", default="", help="name of the character (default: the portrait's file name)")
    command.add_argument("--bank", default="", help=".safetensors bank (default: the starter bank)")
    command.set_defaults(run=_add_character)

    command = commands.add_parser("lip-sync", help="animate the mouth from dialogue")
    command.add_argument("--sound", metavar="FILE", help="add this sound as a strip and lip-sync only this strip")
    command.add_argument("--frame", type=int, help="start frame of --sound (default: the scene's start frame)")
    command.add_argument(
        "--strip", action="append", default=[], metavar="NAME", help="sound strip to lip-sync; may be repeated"
    )
    command.add_argument("--character", metavar="NAME", help="speaker (default: each strip's, or the only character)")
    command.set_defaults(run=_lip_sync)

    command = commands.add_parser("render", help="render faces to image strips; renders only changed frames")
    command.add_argument(
        "--character",
        action="append",
        default=[],
        metavar="NAME",
        help="character to render; may be repeated (default: all)",
    )
    ranges = [name.lower() for name, _label, _tip in sequencer.RENDER_RANGES]
    command.add_argument("--range", choices=ranges, default="auto", help="frames to render (default: %(default)s)")
    command.set_defaults(run=_render)

    command = commands.add_parser("dub", help="dub the face in a movie, to an image strip above the movie strip")
    command.add_argument("movie", help="movie file to add as a strip, or the name of a movie strip")
    command.add_argument("--sound", metavar="FILE", help="new dialogue; starts with the movie")
    command.add_argument("--frame", type=int, help="start frame of an added movie (default: the scene's start frame)")
    command.add_argument("--character", metavar="NAME", help="character to use (default: the strip's, or a new one)")
    command.set_defaults(run=_dub)

    command = commands.add_parser("export", help="render the sequencer with faces and sound to an MP4 file")
    command.add_argument("movie", metavar="FILE", help="MP4 file to write")
    command.set_defaults(run=_export)

    command = commands.add_parser("status", help="print engine, characters and strips as JSON")
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
        raise EDTalkError("The sequencer has no sound strip.", "Add one with --sound.")
    known = character.characters(scene)
    if obj is None and len(known) == 1:
        obj = known[0]
    done = lip_sync(scene, strips, obj)
    print(f"Lip-synced {sequencer.quoted(strip.name for strip in done)}.")


def _render(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    objs = [_character(scene, name) for name in options.character] or character.characters(scene)
    if not objs:
        raise EDTalkError("The scene has no character.", "Add one with add-character.")
    for name, plan in render_faces(scene, objs, options.range.upper()).items():
        print(f"{name}: {plan.missing} frames rendered, {plan.reused} already rendered.")


def _dub(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    obj = _character(scene, options.character) if options.character else None
    known = {strip.name: strip for strip in compat.strips(scene) if strip.type == "MOVIE"}
    strip = known.get(options.movie) or add_movie(scene, options.movie, frame=options.frame)
    sounds = [add_sound(scene, options.sound, frame=compat.left_handle(strip))] if options.sound else []
    for name, plan in dub(scene, [strip], sounds, obj or sequencer.speaker(strip)).items():
        print(f"{name}: {plan.missing} frames rendered, {plan.reused} already rendered.")


def _export(scene: bpy.types.Scene, options: argparse.Namespace) -> None:
    print(f"Wrote {export.export_movie(scene, os.path.abspath(options.movie))}.")


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
        raise EDTalkError("The .blend file has not been saved yet.", "Use --save-as FILE.")
    try:
        bpy.ops.wm.save_as_mainfile(filepath=path)
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be saved: {error}", "Choose another folder.", "disk") from error


def _scene(name: str | None) -> bpy.types.Scene:
    return _named(bpy.data.scenes, name, "scene") if name else bpy.context.scene


def _character(scene: bpy.types.Scene, name: str) -> bpy.types.Object:
    return _named({obj.name: obj for obj in character.characters(scene)}, name, "character")


def _strip(scene: bpy.types.Scene, name: str) -> bpy.types.Strip:
    return _named({strip.name: strip for strip in compat.strips(scene) if strip.type == "SOUND"}, name, "sound strip")


def _named(known: Any, name: str, what: str) -> Any:
    if name not in known:
        names = sequencer.quoted(known.keys(), most=10)
        hint = f"Choose one of: {names}." if names else f"The scene has no {what}."
        raise EDTalkError(f"There is no {what} named '{name}'.", hint)
    return known[name]


def register() -> None:
    global _command
    _command = bpy.utils.register_cli_command(NAME, main)


def unregister() -> None:
    bpy.utils.unregister_cli_command(_command)
