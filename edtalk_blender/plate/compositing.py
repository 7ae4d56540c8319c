"""Faces in the compositor: plate, face layer and a node group that lays one over the other, made and kept up to date.

A face strip shows files named by what they were made from. The compositor wants them numbered, so each strip that is
composited has a folder of hard links to its pictures, a new one whenever they change.
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
from ..character import character, exif
from ..character.snapshot import FULL_FRAME_LAYERS
from ..folders import SEQUENCES, as_directory, character_folder
from ..timeline import footage, sequencer
from . import dubbing

STRIP, PART = "edtalk_strip", "edtalk_part"  # of a node: identity of its face strip, and which of its nodes it is
GROUP, GROUP_VERSION = "edtalk_group", 1  # of a node group: that it is ours
UPRIGHT = "upright"  # folder within that of the sequences, of turned portraits

_MATCH_RADIUS = 0.06  # of the picture's height: what colours are averaged over
_SPACES, _ALPHA = {".png": "sRGB", ".exr": "Linear Rec.709"}, {".png": "STRAIGHT", ".exr": "PREMUL"}

# Inputs of the group besides plate and face: name, description, default, least, most.
_CONTROLS = (
    ("Amount", "How much of the face is laid over the plate", 1.0, 0.0, 1.0),
    ("Exposure", "Brightness of the face, in stops", 0.0, -10.0, 10.0),
    ("Saturation", "Strength of the face's colours", 1.0, 0.0, 2.0),
    ("Match", "Draw the face's colours towards the plate's under it, where light or grade have changed", 0.0, 0.0, 1.0),
    ("Match Radius", "Pixels over which colours are averaged to be matched", 40.0, 1.0, 500.0),
    ("Blur", "Soften the face by so many pixels; its edge stays", 0.0, 0.0, 50.0),
    ("Grain", "Strength of the noise on the face", 0.0, 0.0, 1.0),
    ("Grain Size", "Pixels of a grain", 1.0, 1.0, 20.0),
    ("First Frame", "The face is shown from this frame on", 1.0, -1e6, 1e6),
    ("Last Frame", "The face is shown up to this frame", 250.0, -1e6, 1e6),
)


# --- Building


def build(scene: bpy.types.Scene, obj: bpy.types.Object, strip: bpy.types.ImageStrip) -> str:
    """Make or renew the nodes that lay a character's face strip over its plate; returns what is left to do, or "".

    Nodes of the artist and their links are kept, as is what was set and moved of ours. Raises EDTalkError where the
    film is missing or the folder cannot be written to.
    """
    plate = sequencer.find(scene, strip.get(sequencer.PLATE, ""))
    whole = strip.get(sequencer.LAYER) in FULL_FRAME_LAYERS
    frames = _numbered(obj, strip)
    film = _film(plate) if whole and plate else _upright(obj) if whole else None

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
        if part not in parts and (part != "plate" or film is not None):
            node = parts[part] = tree.nodes.new(kind)
            node[STRIP], node[PART] = strip_id, part
            node.location = corner[0] + place[0], corner[1] + place[1]
    group, fit = parts["group"], parts["fit"]
    parts["face"].label = f"{obj.name} face"
    parts["face"].image = frames
    group.label, fit.label = obj.name, "Fit to Frame"
    if is_new:
        group.node_tree, group.width = _group_tree(), 220
        compat.set_node_option(fit, "space", "RENDER_SIZE")
        compat.set_node_option(fit, "frame_method", "FIT")
        if film is not None and film.size[1]:
            group.inputs["Match Radius"].default_value = round(_MATCH_RADIUS * film.size[1])
    if "plate" in parts and film is not None:
        parts["plate"].label = f"{obj.name} plate"
        parts["plate"].image = film
    _renew(scene, tree, strip, parts)
    return _link(tree, parts)


def is_new(scene: bpy.types.Scene, strip: bpy.types.ImageStrip) -> bool:
    """Whether a face strip has no nodes yet."""
    tree = compat.compositor(scene)
    return tree is None or "group" not in _parts(tree, sequencer.identity(strip))


def _link(tree: bpy.types.NodeTree, parts: dict[str, bpy.types.Node]) -> str:
    """Connect what is not connected, taking away nothing of the artist's; returns what is left to do."""
    group, fit, output = parts["group"], parts["fit"], compat.compositor_output(tree)
    if not output.node.get(PART) and output.node.location.x < fit.location.x + 200 and not output.is_linked:
        output.node.location = fit.location.x + 220, fit.location.y
    if not group.inputs["Face"].is_linked:
        tree.links.new(parts["face"].outputs["Image"], group.inputs["Face"])
    if not fit.inputs["Image"].is_linked:
        tree.links.new(group.outputs["Image"], fit.inputs["Image"])
    last = output.links[0].from_node if output.is_linked else None
    below = _group_before(tree, last) if last is not None and last != fit else None
    same = "plate" in parts and below is not None and _plate_image(tree, below) == parts["plate"].image
    if same and not group.inputs["Plate"].is_linked:  # another face over the same plate: this one over both
        tree.links.new(below.outputs["Image"], group.inputs["Plate"])
        tree.nodes.remove(parts.pop("plate"))
    elif "plate" in parts and not group.inputs["Plate"].is_linked:
        tree.links.new(parts["plate"].outputs["Image"], group.inputs["Plate"])
    if last is None or same:
        tree.links.new(fit.outputs["Image"], output)
    if last is None or same or last == fit:
        if group.inputs["Plate"].is_linked:
            return ""
        return f"Link what '{group.label}' is to be laid over to its Plate."
    if group.outputs["Image"].links and any(link.to_node != fit for link in group.outputs["Image"].links):
        return ""  # the artist has found a place for it
    if any(link.to_node.get(PART) is None for link in fit.outputs["Image"].links):
        return ""
    return f"Your own nodes are as they were: link the Image of '{fit.label}' to where you want the face."


def _group_before(tree: bpy.types.NodeTree, fit: bpy.types.Node) -> bpy.types.Node | None:
    """The node group of ours whose picture one of our last nodes passes on."""
    return _parts(tree, fit[STRIP]).get("group") if fit.get(PART) == "fit" else None


def _plate_image(tree: bpy.types.NodeTree, group: bpy.types.Node) -> bpy.types.Image | None:
    """The image that lies under a group of ours, under whatever other faces."""
    links = group.inputs["Plate"].links
    below = links[0].from_node if links else None
    if below is None or below.get(PART) not in ("plate", "group"):
        return None
    return below.image if below[PART] == "plate" else _plate_image(tree, below)


def _parts(tree: bpy.types.NodeTree, strip_id: str) -> dict[str, bpy.types.Node]:
    """Our nodes for a face strip, by part."""
    return {node[PART]: node for node in tree.nodes if node.get(STRIP) == strip_id and node.get(PART)}


def _free_corner(tree: bpy.types.NodeTree) -> tuple[float, float]:
    """Top left of a place under all nodes."""
    if not tree.nodes:
        return 0.0, 0.0
    return (
        min(node.location.x for node in tree.nodes),
        min(node.location.y - max(node.dimensions.y, 320.0) for node in tree.nodes) - 60.0,
    )


# --- Keeping up


def renew(scene: bpy.types.Scene) -> None:
    """Have the nodes show their face strips as these are now: other pictures, another place in time.

    What cannot be brought up to date, since its film or frames are missing, stays as it was.
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
            _renew(scene, tree, strip, parts)


def _renew(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, strip: bpy.types.ImageStrip, parts: dict[str, bpy.types.Node]
) -> None:
    """When the nodes show what."""
    face, group, plate = parts["face"], parts["group"], parts.get("plate")
    face.frame_start, face.frame_duration = round(compat.content_start(strip)), len(strip.elements)
    face.frame_offset, face.use_auto_refresh = 0, True
    group.inputs["First Frame"].default_value = compat.left_handle(strip)
    group.inputs["Last Frame"].default_value = compat.right_handle(strip) - 1
    movie = sequencer.find(scene, strip.get(sequencer.PLATE, ""))
    if plate is not None and plate.image is not None and plate.image.source == "MOVIE" and movie is not None:
        _show_film(scene, tree, plate, movie)


def _show_film(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, node: bpy.types.Node, movie: bpy.types.MovieStrip
) -> None:
    """Have an image node show of a film what a movie strip shows."""
    clock = footage.time_map(scene, movie)
    shown = np.rint(dubbing.seconds(scene, movie, clock.frames) * (movie.fps or clock.fps)).astype(int)
    path = node.path_from_id("frame_offset")
    curve = next((curve for curve in compat.fcurves(tree) if curve.data_path == path), None)
    node.use_auto_refresh = True
    node.frame_start = clock.start
    if len(shown) < 2 or (np.diff(shown) == 1).all():
        if curve is not None:
            compat.channelbag(tree).fcurves.remove(curve)
        node.frame_offset, node.frame_duration = (int(shown[0]) if len(shown) else 0), max(len(shown), 1)
        return
    node.frame_duration = 1  # always its first frame, and an offset that is keyed
    curve = curve or compat.channelbag(tree).fcurves.new(path)
    curve.keyframe_points.clear()
    changes = np.flatnonzero(np.diff(shown, prepend=shown[0] - 1))
    curve.keyframe_points.add(len(changes))
    curve.keyframe_points.foreach_set("co", np.column_stack([clock.frames[changes], shown[changes]]).ravel())
    for point in curve.keyframe_points:
        point.interpolation = "CONSTANT"
    curve.update()


def _film(plate: bpy.types.MovieStrip) -> bpy.types.Image:
    return bpy.data.images.load(str(footage.movie_path(plate)), check_existing=True)


# --- Numbered pictures


def _upright(obj: bpy.types.Object) -> bpy.types.Image | None:
    """The character's portrait as the engine takes it: of a photograph noted to be turned, a turned one."""
    image, orientation = obj.edtalk.portrait_image, 1
    with suppress(EDTalkError):  # it is missing
        photograph = character.portrait_path(obj)
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
            hint = "Choose a folder that may be written to."
            raise EDTalkError(f"{path} could not be written.", hint, "disk") from error
        finally:
            bpy.data.images.remove(copy)
    turned = bpy.data.images.load(as_directory(folder) + path.name, check_existing=True)
    turned[STRIP] = UPRIGHT  # so that its folder is kept
    return turned


def _numbered(obj: bpy.types.Object, strip: bpy.types.ImageStrip) -> bpy.types.Image:
    """A face strip's pictures as an image sequence, numbered from 1; written when they are others than before."""
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
    """Delete the folders of numbered pictures that no image shows; the pictures themselves stay."""
    used = {Path(bpy.path.abspath(image.filepath)).parent for image in bpy.data.images if image.get(STRIP)}
    for obj in (obj for obj in bpy.data.objects if character.is_character(obj)):
        folder = character_folder(obj) / SEQUENCES
        for old in folder.iterdir() if folder.is_dir() else ():
            if old not in used and os.path.isdir(old):
                shutil.rmtree(old, ignore_errors=True)


# --- The node group


def _group_tree() -> bpy.types.NodeTree:
    """The node group that all faces share, made where the file has none; an artist's changes to it stay."""
    found = [tree for tree in bpy.data.node_groups if tree.get(GROUP) == GROUP_VERSION and tree.library is None]
    return found[0] if found else _new_group_tree()


def _new_group_tree() -> bpy.types.NodeTree:
    tree = bpy.data.node_groups.new("EDTalk Face", "CompositorNodeTree")
    tree[GROUP] = GROUP_VERSION
    for name, in_out in (("Image", "OUTPUT"), ("Face", "OUTPUT"), ("Plate", "INPUT"), ("Face", "INPUT")):
        socket = tree.interface.new_socket(name=name, in_out=in_out, socket_type="NodeSocketColor")
        if in_out == "INPUT":
            socket.default_value = (0.0, 0.0, 0.0, 0.0)
    for name, description, default, least, most in _CONTROLS:
        socket = tree.interface.new_socket(name=name, in_out="INPUT", socket_type="NodeSocketFloat")
        socket.default_value, socket.min_value, socket.max_value = default, least, most
        socket.description = description
        socket.subtype = "FACTOR" if (least, most) == (0.0, 1.0) else "NONE"

    given = _node(tree, "NodeGroupInput", (-900, 0)).outputs
    alpha = _node(tree, "CompositorNodeSeparateColor", (-660, -260), Image=given["Face"]).outputs["Alpha"]
    brighter = _node(tree, "CompositorNodeExposure", (-660, 120), Image=given["Face"], Exposure=given["Exposure"])
    graded = _node(tree, "CompositorNodeHueSat", (-440, 120), Image=brighter, Saturation=given["Saturation"])
    matched = _matched(tree, given, graded.outputs["Image"], alpha)

    soft = _node(tree, "CompositorNodeBlur", (820, 120), "Blur", Image=matched, Size=given["Blur"])
    compat.set_node_option(soft, "filter_type", "FAST_GAUSS")
    straight = _node(tree, "CompositorNodePremulKey", (1040, 120), Image=soft)
    compat.set_node_option(straight, "mapping", "PREMUL_TO_STRAIGHT")
    grained = _grained(tree, given, straight.outputs["Image"])

    frame = _node(tree, "CompositorNodeSceneTime", (820, -560)).outputs["Frame"]
    begun = _math(
        tree, "GREATER_THAN", (1240, -480), frame, _math(tree, "SUBTRACT", (1040, -480), given["First Frame"], 0.5)
    )
    on = _math(tree, "LESS_THAN", (1240, -660), frame, _math(tree, "ADD", (1040, -660), given["Last Frame"], 0.5))
    shown = _math(tree, "MULTIPLY", (1440, -560), begun, on)
    shown = _math(tree, "MULTIPLY", (1640, -480), shown, given["Amount"])
    matte = _math(tree, "MULTIPLY", (1840, -260), shown, alpha)

    edged = _node(tree, "CompositorNodeSetAlpha", (2040, 120), "Matte", Image=grained, Alpha=matte)
    compat.set_node_option(edged, "mode", "REPLACE_ALPHA")
    layer = _node(tree, "CompositorNodePremulKey", (2240, 120), Image=edged)
    compat.set_node_option(layer, "mapping", "STRAIGHT_TO_PREMUL")
    over = _node(tree, "CompositorNodeAlphaOver", (2440, 200))
    below, above = [socket for socket in over.inputs if socket.type == "RGBA"]
    tree.links.new(given["Plate"], below)
    tree.links.new(layer.outputs["Image"], above)
    _node(tree, "NodeGroupOutput", (2660, 120), Image=over, Face=layer)
    return tree


def _matched(
    tree: bpy.types.NodeTree, given: bpy.types.NodeInputs, face: bpy.types.NodeSocket, alpha: bpy.types.NodeSocket
) -> bpy.types.Node:
    """The face, by Match moved towards the averaged colours that the plate has within the matte."""
    wanted = _math(tree, "GREATER_THAN", (-440, -420), given["Match"], 0.0)
    radius = _math(tree, "MULTIPLY", (-240, -420), wanted, given["Match Radius"])
    under = _node(
        tree, "CompositorNodeSetAlpha", (-440, -120), "Plate under the Face", Image=given["Plate"], Alpha=alpha
    )
    compat.set_node_option(under, "mode", "APPLY")
    averages = []
    for picture, place in ((under.outputs["Image"], (-40, -120)), (face, (-40, -340))):
        blur = _node(tree, "CompositorNodeBlur", place, "Average", Image=picture, Size=radius)
        compat.set_node_option(blur, "filter_type", "FAST_GAUSS")
        averages.append(blur.outputs["Image"])
    apart = _vector(tree, "SUBTRACT", (180, -120), *averages)
    weight = _node(tree, "CompositorNodeSeparateColor", (180, -340), Image=averages[1]).outputs["Alpha"]
    weight = _math(tree, "DIVIDE", (500, -340), alpha, _math(tree, "MAXIMUM", (340, -340), weight, 1e-3))
    share = _math(tree, "MULTIPLY", (340, -520), weight, given["Match"])
    moved = _vector(tree, "ADD", (500, 120), face, _vector(tree, "SCALE", (500, -120), apart, Scale=share))
    matched = _node(tree, "CompositorNodeSetAlpha", (660, 120), "Matched", Image=moved, Alpha=alpha)
    compat.set_node_option(matched, "mode", "REPLACE_ALPHA")
    return matched


def _grained(
    tree: bpy.types.NodeTree, given: bpy.types.NodeInputs, picture: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    """A picture times noise around 1, another one in each frame."""
    pixel = _node(tree, "CompositorNodeImageCoordinates", (820, -120), Image=given["Face"]).outputs["Pixel"]
    grain = _vector(tree, "DIVIDE", (1040, -120), pixel, given["Grain Size"])
    grain = _vector(tree, "FLOOR", (1240, -120), grain)
    time = _node(tree, "CompositorNodeSceneTime", (1240, -300)).outputs["Frame"]
    noise = _node(tree, "ShaderNodeTexWhiteNoise", (1440, -120))
    noise.noise_dimensions = "4D"
    tree.links.new(grain, noise.inputs["Vector"])
    tree.links.new(time, noise.inputs["W"])
    around = _math(tree, "SUBTRACT", (1640, -120), noise.outputs["Value"], 0.5)
    factor = _math(tree, "MULTIPLY", (1640, -300), around, _math(tree, "MULTIPLY", (1440, -300), given["Grain"], 2.0))
    return _vector(tree, "SCALE", (1840, 120), picture, Scale=_math(tree, "ADD", (1840, -60), factor, 1.0))


def _node(
    tree: bpy.types.NodeTree,
    kind: str,
    place: tuple[int, int],
    label: str = "",
    **inputs: bpy.types.NodeSocket | bpy.types.Node,
) -> bpy.types.Node:
    """A node with some of its inputs linked, by name; of a node its first output."""
    node = tree.nodes.new(kind)
    node.location, node.label = place, label
    for name, source in inputs.items():
        tree.links.new(source.outputs[0] if isinstance(source, bpy.types.Node) else source, node.inputs[name])
    return node


def _math(
    tree: bpy.types.NodeTree, operation: str, place: tuple[int, int], *values: bpy.types.NodeSocket | float
) -> bpy.types.NodeSocket:
    return _operation(tree, "ShaderNodeMath", operation, place, values)


def _vector(
    tree: bpy.types.NodeTree,
    operation: str,
    place: tuple[int, int],
    *values: bpy.types.NodeSocket | float,
    **named: bpy.types.NodeSocket,
) -> bpy.types.NodeSocket:
    return _operation(tree, "ShaderNodeVectorMath", operation, place, values, **named)


def _operation(
    tree: bpy.types.NodeTree,
    kind: str,
    operation: str,
    place: tuple[int, int],
    values: tuple[bpy.types.NodeSocket | float, ...],
    **named: bpy.types.NodeSocket,
) -> bpy.types.NodeSocket:
    node = tree.nodes.new(kind)
    node.operation, node.location, node.hide = operation, place, True
    for socket, value in zip(node.inputs, values, strict=False):
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, socket)
        else:
            socket.default_value = value
    for name, source in named.items():
        tree.links.new(source, node.inputs[name])
    return node.outputs["Value"] if kind == "ShaderNodeMath" else node.outputs["Vector"]
