"""Compositor nodes that lay a face strip over its plate: creating them and keeping them up to date.

The pictures of a face strip are named by their content, but the compositor needs numbered files. So each composited
strip has a folder of hard links to its pictures, and gets a new one whenever they change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.files import link_or_copy
from ...inference.contract.shot import file_sha256
from .. import compat
from ..character import character, exif, files
from ..character.snapshot import FULL_FRAME_LAYERS
from ..folders import SEQUENCES, as_directory, character_folder
from ..timeline import footage, sequencer
from . import dubbing, node_group

STRIP, PART = "edtalk_strip", "edtalk_part"  # of a node: identity of its face strip, and its role for that strip
VIEWER = "viewer"  # role of the Viewer node, which belongs to no single strip
UPRIGHT = "upright"  # folder among the sequences, of rotated portraits

_MATCH_RADIUS = 0.06  # of the picture's height: default radius for averaging colours
_SPACES, _ALPHA = {".png": "sRGB", ".exr": "Linear Rec.709"}, {".png": "STRAIGHT", ".exr": "PREMUL"}


# --- Building


def build(scene: bpy.types.Scene, obj: bpy.types.Object, strip: bpy.types.ImageStrip) -> str:
    """Create or update the nodes that lay a character's face strip over its plate.

    The artist's own nodes and links are kept, and so are changed values and positions of generated nodes. Returns
    the step that remains for the artist, or "". Raises EDTalkError if the movie is missing or the folder
    cannot be written to.
    """
    plate = sequencer.find(scene, strip.get(sequencer.PLATE, ""))
    is_full_frame = strip.get(sequencer.LAYER) in FULL_FRAME_LAYERS
    frames = _numbered(obj, strip)
    background = None
    if is_full_frame:
        background = _movie_image(plate) if plate else _upright_portrait(obj)

    tree, strip_id = compat.ensure_compositor(scene), sequencer.identity(strip)
    parts = _parts(tree, strip_id)
    is_new = "group" not in parts
    corner = _free_corner(tree)
    for part, kind, place in (
        ("face", "CompositorNodeImage", (0, -330)),
        ("plate", "CompositorNodeImage", (0, 0)),
        ("group", "CompositorNodeGroup", (280, 0)),
        ("fit", "CompositorNodeScale", (540, 0)),
    ):
        if part not in parts and (part != "plate" or background is not None):
            node = parts[part] = tree.nodes.new(kind)
            node[STRIP], node[PART] = strip_id, part
            node.location = corner[0] + place[0], corner[1] + place[1]
    group, fit = parts["group"], parts["fit"]
    parts["face"].label = f"{obj.name} face"
    parts["face"].image = frames
    group.label, fit.label = obj.name, "Fit to Frame"
    if is_new:
        group.node_tree, group.width = node_group.get_or_create(), 220
        compat.set_node_option(fit, "space", "RENDER_SIZE")
        compat.set_node_option(fit, "frame_method", "FIT")
        if background is not None and background.size[1]:
            group.inputs["Match Radius"].default_value = round(_MATCH_RADIUS * background.size[1])
    if "plate" in parts and background is not None:
        parts["plate"].label = f"{obj.name} plate"
        parts["plate"].image = background
    _update_timing(scene, tree, strip, parts)
    todo = _link(tree, parts)
    _view(tree)
    return todo


def _view(tree: bpy.types.NodeTree) -> None:
    """Show the result as backdrop: a Viewer node that shows what the output does, unless the artist has one."""
    output = compat.compositor_output(tree)
    viewers = [node for node in tree.nodes if node.bl_idname == "CompositorNodeViewer"]
    if not output.is_linked or any(node.get(PART) != VIEWER for node in viewers):
        return
    if not viewers:
        viewers = [tree.nodes.new("CompositorNodeViewer")]
        viewers[0][PART] = VIEWER
        viewers[0].location = output.node.location.x, output.node.location.y - 160
    tree.links.new(output.links[0].from_socket, viewers[0].inputs["Image"])


def is_new(scene: bpy.types.Scene, strip: bpy.types.ImageStrip) -> bool:
    """Whether a face strip has no nodes yet."""
    tree = compat.compositor(scene)
    return tree is None or "group" not in _parts(tree, sequencer.identity(strip))


def _link(tree: bpy.types.NodeTree, parts: dict[str, bpy.types.Node]) -> str:
    """Link unlinked sockets without removing any of the artist's links; returns the remaining manual step, or ""."""
    group, fit, output = parts["group"], parts["fit"], compat.compositor_output(tree)
    if not output.node.get(PART) and output.node.location.x < fit.location.x + 200 and not output.is_linked:
        output.node.location = fit.location.x + 220, fit.location.y
    if not group.inputs["Face"].is_linked:
        tree.links.new(parts["face"].outputs["Image"], group.inputs["Face"])
    if not fit.inputs["Image"].is_linked:
        tree.links.new(group.outputs["Image"], fit.inputs["Image"])
    last = output.links[0].from_node if output.is_linked else None
    below = _group_before(tree, last) if last is not None and last != fit else None
    same_plate = "plate" in parts and below is not None and _plate_image(tree, below) == parts["plate"].image
    if same_plate and not group.inputs["Plate"].is_linked:  # another face over the same plate: this one goes on top
        tree.links.new(below.outputs["Image"], group.inputs["Plate"])
        tree.nodes.remove(parts.pop("plate"))
    elif "plate" in parts and not group.inputs["Plate"].is_linked:
        tree.links.new(parts["plate"].outputs["Image"], group.inputs["Plate"])
    if last is None or same_plate:
        tree.links.new(fit.outputs["Image"], output)
    if last is None or same_plate or last == fit:
        if group.inputs["Plate"].is_linked:
            return ""
        return f"Link a background to the Plate input of '{group.label}'."
    if group.outputs["Image"].links and any(link.to_node != fit for link in group.outputs["Image"].links):
        return ""  # the artist has linked it
    if any(link.to_node.get(PART) is None for link in fit.outputs["Image"].links):
        return ""
    return f"Your own nodes are unchanged. Link the Image output of '{fit.label}' to add the face."


def _group_before(tree: bpy.types.NodeTree, fit: bpy.types.Node) -> bpy.types.Node | None:
    """The generated node group in front of a generated "fit" node; None for other nodes."""
    return _parts(tree, fit[STRIP]).get("group") if fit.get(PART) == "fit" else None


def _plate_image(tree: bpy.types.NodeTree, group: bpy.types.Node) -> bpy.types.Image | None:
    """The plate image at the bottom of a stack of generated node groups."""
    links = group.inputs["Plate"].links
    below = links[0].from_node if links else None
    if below is None or below.get(PART) not in ("plate", "group"):
        return None
    return below.image if below[PART] == "plate" else _plate_image(tree, below)


def _parts(tree: bpy.types.NodeTree, strip_id: str) -> dict[str, bpy.types.Node]:
    """The generated nodes for a face strip, by role."""
    return {node[PART]: node for node in tree.nodes if node.get(STRIP) == strip_id and node.get(PART)}


def _free_corner(tree: bpy.types.NodeTree) -> tuple[float, float]:
    """Top left corner of the free area below all nodes."""
    if not tree.nodes:
        return 0.0, 0.0
    return (
        min(node.location.x for node in tree.nodes),
        min(node.location.y - max(node.dimensions.y, 320.0) for node in tree.nodes) - 60.0,
    )


# --- Updating


def update(scene: bpy.types.Scene) -> None:
    """Update the generated nodes to the pictures and timing of their face strips.

    Nodes whose movie or frames are missing are left unchanged.
    """
    tree = compat.compositor(scene)
    if tree is None:
        return
    for strip_id in {node[STRIP] for node in tree.nodes if node.get(STRIP)}:
        strip = sequencer.find(scene, strip_id)
        obj = sequencer.speaker(strip) if strip else None
        parts = _parts(tree, strip_id)
        if obj is None or not sequencer.is_face(strip) or not {"face", "group"} <= set(parts):
            continue
        with suppress(EDTalkError):
            parts["face"].image = _numbered(obj, strip)
            _update_timing(scene, tree, strip, parts)


def _update_timing(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, strip: bpy.types.ImageStrip, parts: dict[str, bpy.types.Node]
) -> None:
    """Set the frame ranges of a strip's nodes."""
    face, group, plate = parts["face"], parts["group"], parts.get("plate")
    face.frame_start, face.frame_duration = round(compat.content_start(strip)), len(strip.elements)
    face.frame_offset, face.use_auto_refresh = 0, True
    group.inputs["First Frame"].default_value = compat.left_handle(strip)
    group.inputs["Last Frame"].default_value = compat.right_handle(strip) - 1
    movie = sequencer.find(scene, strip.get(sequencer.PLATE, ""))
    if plate is not None and plate.image is not None and plate.image.source == "MOVIE" and movie is not None:
        _play_movie(scene, tree, plate, movie)


def _play_movie(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, node: bpy.types.Node, movie: bpy.types.MovieStrip
) -> None:
    """Make an image node play a movie as a movie strip does, with a keyed offset if the strip is retimed."""
    clock = footage.time_map(scene, movie)
    shown = np.rint(dubbing.seconds(scene, movie, clock.frames) * (sequencer.movie_fps(movie) or clock.fps)).astype(int)
    path = node.path_from_id("frame_offset")
    curve = next((curve for curve in compat.fcurves(tree) if curve.data_path == path), None)
    node.use_auto_refresh = True
    node.frame_start = clock.start
    if len(shown) < 2 or (np.diff(shown) == 1).all():
        if curve is not None:
            compat.channelbag(tree).fcurves.remove(curve)
        node.frame_offset, node.frame_duration = (int(shown[0]) if len(shown) else 0), max(len(shown), 1)
        return
    node.frame_duration = 1  # its first frame always, moved by the keyed offset
    curve = curve or compat.channelbag(tree).fcurves.new(path)
    curve.keyframe_points.clear()
    changes = np.flatnonzero(np.diff(shown, prepend=shown[0] - 1))
    curve.keyframe_points.add(len(changes))
    curve.keyframe_points.foreach_set("co", np.column_stack([clock.frames[changes], shown[changes]]).ravel())
    for point in curve.keyframe_points:
        point.interpolation = "CONSTANT"
    curve.update()


def _movie_image(plate: bpy.types.MovieStrip) -> bpy.types.Image:
    return bpy.data.images.load(str(footage.movie_path(plate)), check_existing=True)


# --- Numbered pictures


def _upright_portrait(obj: bpy.types.Object) -> bpy.types.Image | None:
    """The character's portrait, or a rotated copy if the file has an EXIF orientation, which Blender ignores."""
    image, orientation = obj.edtalk.portrait_image, 1
    with suppress(EDTalkError):  # a missing file has no orientation
        photograph = files.portrait_path(obj)
        orientation = exif.orientation(photograph)
    if orientation == 1:
        return image
    folder = character_folder(obj) / SEQUENCES / UPRIGHT
    path = folder / f"{file_sha256(photograph)[:12]}.png"
    if not path.is_file():
        width, height = image.size
        pixels = np.empty((height, width, 4), np.float32)
        image.pixels.foreach_get(pixels.ravel())
        pixels = np.ascontiguousarray(exif.upright(pixels[::-1], orientation)[::-1])
        copy = bpy.data.images.new(f"{obj.name} upright", *pixels.shape[1::-1])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            copy.pixels.foreach_set(pixels.ravel())
            copy.filepath_raw, copy.file_format = str(path), "PNG"
            copy.save()
        except OSError as error:
            raise disk_error(path, error) from error
        except RuntimeError as error:
            hint = "Choose a folder with write permission."
            raise EDTalkError(f"{path} could not be written.", hint, "disk") from error
        finally:
            bpy.data.images.remove(copy)
    turned = bpy.data.images.load(as_directory(folder) + path.name, check_existing=True)
    turned[STRIP] = UPRIGHT  # keeps its folder from being cleared
    return turned


def _numbered(obj: bpy.types.Object, strip: bpy.types.ImageStrip) -> bpy.types.Image:
    """A face strip's pictures as an image sequence numbered from 1; links are written when the pictures change."""
    source = Path(bpy.path.abspath(strip.directory))
    names = [element.filename for element in strip.elements]
    version = hashlib.sha256("\n".join([str(source), *names]).encode()).hexdigest()[:12]
    folder = character_folder(obj) / SEQUENCES / f"{sequencer.identity(strip)}_{version}"
    suffix = ".exr" if any(name.endswith(".exr") for name in names) else ".png"
    first = folder / f"face_0001{suffix}"
    if not (folder / "whole").is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(names, 1):
                if Path(name).name == name and os.path.isfile(source / name):
                    link_or_copy(source / name, folder / f"face_{number:04}{suffix}")
            (folder / "whole").touch()
        except OSError as error:
            raise disk_error(folder, error) from error
    strip_id = sequencer.identity(strip)
    image = next((one for one in bpy.data.images if one.get(STRIP) == strip_id and one.library is None), None)
    path = as_directory(folder) + first.name
    if image is None:
        image = bpy.data.images.new(f"{obj.name} face frames", 1, 1)
        image[STRIP] = strip_id
    if image.source != "SEQUENCE" or image.filepath != path:
        image.source, image.filepath = "SEQUENCE", path
        with suppress(TypeError):  # a studio's own colour management may have other names
            image.colorspace_settings.name = _SPACES[suffix]
        image.alpha_mode = _ALPHA[suffix]
        image.reload()
    return image


def clear_unused() -> None:
    """Delete folders of numbered links that no image uses; the pictures themselves are kept."""
    used = {Path(bpy.path.abspath(image.filepath)).parent for image in bpy.data.images if image.get(STRIP)}
    for obj in (obj for obj in bpy.data.objects if character.is_character(obj)):
        folder = character_folder(obj) / SEQUENCES
        for old in folder.iterdir() if folder.is_dir() else ():
            if old not in used and os.path.isdir(old):
                shutil.rmtree(old, ignore_errors=True)
