"""Differences between Blender 4.5 and 5.2. No other file depends on Blender's version.

actions     4.5 reaches the F-curves of a slot through layers; 5.0 has a function
strips      5.1 renames `frame_final_*` and `frame_*` to handles and content, and deprecates the old names
retiming    5.0 places the last key after the last frame, and changes the memory layout of keys
sequencer   5.0 edits the sequencer of `workspace.sequencer_scene`, which can differ from the window's scene
output      5.0 needs a media type before a file format
compositor  5.0 has one compositing node group per scene, and sockets in place of node properties
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from bpy_extras import anim_utils

_STRIP_NAMES = {  # name since 5.1: older name
    "left_handle": "frame_final_start",
    "right_handle": "frame_final_end",
    "duration": "frame_final_duration",
    "content_start": "frame_start",
    "content_duration": "frame_duration",
    "left_handle_offset": "frame_offset_start",
    "right_handle_offset": "frame_offset_end",
    "content_trim_start": "animation_offset_start",
    "content_trim_end": "animation_offset_end",
}


# --- Actions


def channelbag(owner: bpy.types.ID) -> bpy.types.ActionChannelbag:
    """The channelbag of `owner`'s action, with its F-curves and groups. Creates missing data, action and slot.

    Like Blender's `keyframe_insert`, it adds a slot of its own to an action that `owner` has without a slot.
    """
    animation = owner.animation_data or owner.animation_data_create()
    if animation.action is None:
        animation.action = bpy.data.actions.new(f"{owner.name}Action")
    if animation.action_slot is None:
        animation.action_slot = animation.action.slots.new(id_type=owner.id_type, name=owner.name)
    return action_channelbag(animation.action, animation.action_slot)


def fitting_slot(action: bpy.types.Action, owner: bpy.types.ID) -> bpy.types.ActionSlot:
    """The action's slot for `owner`, see `find_slot`, or a new one with its name."""
    return find_slot(action, owner) or action.slots.new(id_type=owner.id_type, name=owner.name)


def find_slot(action: bpy.types.Action, owner: bpy.types.ID) -> bpy.types.ActionSlot | None:
    """The action's slot that `owner` used last, else the one with its name, else the only one if it is free, else None.

    A slot is free if no other data-block uses it.
    """
    fitting = [slot for slot in action.slots if slot.target_id_type in (owner.id_type, "UNSPECIFIED")]
    last = owner.animation_data.last_slot_identifier if owner.animation_data else ""
    for slot in fitting:
        if slot.identifier == last:
            return slot
    for slot in fitting:
        if slot.name_display == owner.name:
            return slot
    return fitting[0] if len(fitting) == 1 and not is_shared(fitting[0], owner) else None


def is_shared(slot: bpy.types.ActionSlot, owner: bpy.types.ID) -> bool:
    """Whether a slot animates other local data-blocks than `owner`."""
    return any(user != owner for user in slot.users() if user.library is None)


def assign_action(owner: bpy.types.ID, action: bpy.types.Action) -> None:
    """Assign an action and its fitting slot to `owner`."""
    animation = owner.animation_data or owner.animation_data_create()
    animation.action = action
    animation.action_slot = fitting_slot(action, owner)


def action_channelbag(action: bpy.types.Action, slot: bpy.types.ActionSlot) -> bpy.types.ActionChannelbag:
    """The channelbag of one slot. Creates missing layer, strip and channelbag."""
    if hasattr(anim_utils, "action_ensure_channelbag_for_slot"):
        return anim_utils.action_ensure_channelbag_for_slot(action, slot)
    layer = action.layers[0] if action.layers else action.layers.new("Layer")
    strip = layer.strips[0] if layer.strips else layer.strips.new(type="KEYFRAME")
    return strip.channelbag(slot, ensure=True)


def fcurves(owner: bpy.types.ID) -> list[bpy.types.FCurve]:
    """The F-curves of `owner`'s action; empty without animation. Creates nothing."""
    animation = owner.animation_data
    return slot_fcurves(animation.action, animation.action_slot) if animation else []


def slot_fcurves(action: bpy.types.Action | None, slot: bpy.types.ActionSlot | None) -> list[bpy.types.FCurve]:
    """The F-curves of one slot; empty without action or slot. Creates nothing."""
    if action is None or slot is None:
        return []
    bags = [strip.channelbag(slot) for layer in action.layers for strip in layer.strips]
    return [curve for bag in bags if bag is not None for curve in bag.fcurves]


# --- Strips

_FEW_FILES = 20  # that are added or removed one by one


def sequencer_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene that the Sequencer edits."""
    return getattr(context, "sequencer_scene", None) or context.scene


def has_sequencer_scene(context: bpy.types.Context) -> bool:
    """Whether the Sequencer edits a scene. Since 5.0, it has none in a new workspace."""
    workspace = context.workspace
    return workspace is None or getattr(workspace, "sequencer_scene", context.scene) is not None


def show_scene(context: bpy.types.Context, scene: bpy.types.Scene, in_sequencer: bool) -> None:
    """Show a scene in the window or, since 5.0, in the Sequencer of the workspace.

    If both showed the same scene, both show the new one.
    """
    workspace, window = context.workspace, context.window
    if in_sequencer and hasattr(workspace, "sequencer_scene"):
        if workspace.sequencer_scene == window.scene:
            window.scene = scene
        workspace.sequencer_scene = scene
    else:
        window.scene = scene


def set_sequencer_scene(workspace: bpy.types.WorkSpace, scene: bpy.types.Scene) -> None:
    """Let the Sequencers of a workspace edit this scene. Before 5.0 they edit the window's scene."""
    if hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = scene


def strip_collection(scene: bpy.types.Scene) -> Any:
    """The top-level strips of a scene. Creates a missing sequencer."""
    return scene.sequence_editor_create().strips


def strips(scene: bpy.types.Scene) -> list[bpy.types.Strip]:
    """All strips of a scene, including those in meta strips; empty without a sequencer."""
    return list(scene.sequence_editor.strips_all) if scene.sequence_editor else []


def strip_value(strip: bpy.types.Strip, name: str) -> Any:
    """A timing property of a strip by its name since 5.1: left_handle, right_handle, duration, content_start ..."""
    return getattr(strip, _strip_name(strip, name))


def set_strip_value(strip: bpy.types.Strip, name: str, value: float) -> None:
    """Set a timing property by its name since 5.1. left_handle and right_handle trim, content_start moves."""
    setattr(strip, _strip_name(strip, name), value)


def left_handle(strip: bpy.types.Strip) -> int:
    """First frame of the strip."""
    return int(strip_value(strip, "left_handle"))


def right_handle(strip: bpy.types.Strip) -> int:
    """Frame after the last frame of the strip."""
    return int(strip_value(strip, "right_handle"))


def content_start(strip: bpy.types.Strip) -> float:
    """Frame at which the untrimmed content starts; fractional for sound."""
    return float(strip_value(strip, "content_start"))


def new_image(scene: bpy.types.Scene, name: str, path: str | Path, channel: int, frame: int) -> bpy.types.ImageStrip:
    """Add an image strip of one file, scaled to fit. See `set_files` for a sequence.

    The file is not checked.
    """
    return strip_collection(scene).new_image(
        name=name, filepath=str(path), channel=channel, frame_start=frame, fit_method="FIT"
    )


def new_movie(scene: bpy.types.Scene, name: str, path: str | Path, channel: int, frame: int) -> bpy.types.MovieStrip:
    """Add a movie strip of a whole file, one movie frame per scene frame, scaled to fit. The file is not checked."""
    return strip_collection(scene).new_movie(
        name=name, filepath=str(path), channel=channel, frame_start=frame, fit_method="FIT"
    )


def new_sound(scene: bpy.types.Scene, name: str, path: str | Path, channel: int, frame: int) -> bpy.types.SoundStrip:
    """Add a sound strip of a whole file. The file is not checked."""
    return strip_collection(scene).new_sound(name=name, filepath=str(path), channel=channel, frame_start=frame)


def set_files(strip: bpy.types.ImageStrip, names: Sequence[str] | np.ndarray) -> None:
    """Set the files of an image strip, one per frame, in its folder. Its handles may change.

    names: also as an array of bytes (T,), which saves time: 90,000 names take 2 ms then.
    """
    _set_file_count(strip, len(names))
    table = _table(strip)
    if table is not None:
        table["name"] = names if isinstance(names, np.ndarray) else file_names(names)
        return
    for element, name in zip(strip.elements, names, strict=True):
        element.filename = name if isinstance(name, str) else os.fsdecode(name)


def file_names(names: Sequence[str]) -> np.ndarray:
    """Names of files for `set_files`: (T,) bytes."""
    return np.array([os.fsencode(name) for name in names], f"S{_NAME - 1}")  # Blender ends a name with a zero


def _set_file_count(strip: bpy.types.ImageStrip, count: int) -> None:
    """Add or remove files of an image strip. The caller sets their names.

    `elements.append` and `pop` copy all elements each time, so that 20,000 of them take 20 s. Change Path makes
    elements for all numbers from a first to a last one at once; 90,000 take 40 ms.
    """
    scene, elements = strip.id_data, strip.elements
    if abs(count - len(elements)) > _FEW_FILES and count > 1:
        editor, directory = scene.sequence_editor, strip.directory
        active, editor.active_strip = editor.active_strip, strip
        try:
            with bpy.context.temp_override(scene=scene, sequencer_scene=scene):
                if bpy.ops.sequencer.change_path.poll():
                    ends = [{"name": f"{number:09d}.png"} for number in (1, count)]
                    bpy.ops.sequencer.change_path(
                        directory=bpy.path.abspath(directory), files=ends, use_placeholders=True
                    )
                    strip.directory = directory
        finally:
            editor.active_strip = active
    while len(elements) > count:
        elements.pop(len(elements) - 1)
    while len(elements) < count:
        elements.append("")


def refresh(strip: bpy.types.Strip) -> None:
    """Reload the images of a strip. 5.x otherwise shows cached images of files that have changed."""
    strip.invalidate_cache("RAW")
    strip.directory = strip.directory  # the preview of a new strip only updates after a property change


def set_picture_size(strip: bpy.types.ImageStrip, size: tuple[int, int]) -> None:
    """Set the width and height that Blender stores for each picture of an image strip.

    For a missing file Blender draws a picture of the stored size. `elements.append` leaves that size uninitialised, so
    that Blender hangs or ends for lack of memory. The API cannot write it.
    """
    table = _table(strip)
    if table is not None:
        table["size"] = size


def files_among(strip: bpy.types.ImageStrip, names: Collection[str]) -> set[str]:
    """The names that are files of an image strip. names: of at least 8 characters each."""
    table, elements = _table(strip), strip.elements
    if table is None:
        return {element.filename for element in elements}.intersection(names)
    if not names:
        return set()
    heads = np.unique(np.frombuffer(b"".join(os.fsencode(name)[:8] for name in names), np.uint64))
    column = table["head"].copy()
    nearest = np.searchsorted(heads, column).clip(max=len(heads) - 1)
    found = np.flatnonzero(heads[nearest] == column)
    return {elements[index].filename for index in found.tolist()}.intersection(names)


_NAME = 256  # bytes of the file name, the first field of a strip element; width and height follow


def _table(strip: bpy.types.ImageStrip) -> np.ndarray | None:
    """The memory of an image strip's elements as a table of names and sizes, valid until files are added or removed.

    None if the values that Blender's API gives are not found there.
    """
    elements = strip.elements
    count = len(elements)
    if bpy.app.version >= (5, 3) or not count:
        return None
    start, last = elements[0].as_pointer(), elements[count - 1].as_pointer()
    step = (last - start) // (count - 1) if count > 1 else _NAME + 8
    if step < _NAME + 8 or start + step * (count - 1) != last:
        return None
    fields: Any = {"head": ("<u8", 0), "name": (f"S{_NAME}", 0), "size": ("(2,)<i4", _NAME), "rest": ("V0", step)}
    table = np.ctypeslib.as_array((ctypes.c_uint8 * (step * count)).from_address(start)).view(np.dtype(fields))
    sizes = np.empty((2, count), np.int32)
    elements.foreach_get("orig_width", sizes[0])
    elements.foreach_get("orig_height", sizes[1])
    some = {0, count // 2, count - 1}
    known = [os.fsdecode(bytes(table["name"][index]).split(b"\0")[0]) for index in some]
    is_same = np.array_equal(table["size"].T, sizes) and known == [elements[index].filename for index in some]
    return table if is_same else None


def retiming(strip: bpy.types.Strip, content: int) -> list[tuple[float, float]] | None:
    """(scene frame, content frame) of each retiming key; empty for a strip without retiming.

    content: length of the strip's content in frames. Returns None if there are inner keys whose content frames cannot
    be read: Blender's API gives the scene frame of a key, but not its content frame.
    """
    keys = list(strip.retiming_keys)
    if len(keys) < 2:
        return []
    fractions = [0.0, *(_retiming_fraction(key) for key in keys[1:-1]), 1.0]
    if any(not 0 <= a <= b for a, b in pairwise(fractions)):
        return None
    last = content - (bpy.app.version < (5, 0))  # before 5.0 the last key is on the last frame, since 5.0 after it
    return [(float(key.timeline_frame), part * last) for key, part in zip(keys, fractions, strict=True)]


def _retiming_fraction(key: bpy.types.RetimingKey) -> float:
    """Position of a key in the content, 0..1, read from its memory because the API lacks it. -1 if unknown."""
    if bpy.app.version >= (5, 3):
        return -1.0
    offset = 12 if bpy.app.version >= (5, 0) else 16
    return ctypes.c_float.from_address(key.as_pointer() + offset).value


def _strip_name(strip: bpy.types.Strip, name: str) -> str:
    return name if name in strip.bl_rna.properties else _STRIP_NAMES[name]


# --- Compositor


_NODE_SOCKETS = {  # property of a node in 4.5: its socket since 5.0, and the socket's values by the property's
    "mode": ("Type", {"APPLY": "Apply Mask", "REPLACE_ALPHA": "Replace Alpha"}),
    "mapping": ("Type", {"PREMUL_TO_STRAIGHT": "To Straight", "STRAIGHT_TO_PREMUL": "To Premultiplied"}),
    "filter_type": ("Type", {"GAUSS": "Gaussian", "FAST_GAUSS": "Fast Gaussian"}),
    "space": ("Type", {"RENDER_SIZE": "Render Size"}),
    "frame_method": ("Frame Type", {"FIT": "Fit"}),
}


def compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    """The scene's compositing nodes; None if there are none or if they are disabled."""
    if "compositing_node_group" in scene.bl_rna.properties:
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def ensure_compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """The scene's compositing nodes, enabled. Creates an empty node tree if there is none."""
    if "compositing_node_group" in scene.bl_rna.properties:
        if scene.compositing_node_group is None:
            scene.compositing_node_group = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
    else:
        is_new = scene.node_tree is None
        scene.use_nodes = True
        if is_new:
            scene.node_tree.nodes.clear()
    scene.render.use_compositing = True
    return compositor(scene)


def compositor_output(tree: bpy.types.NodeTree) -> bpy.types.NodeSocket:
    """The input socket of the compositor's output node. Creates a missing node."""
    if "compositing_node_group" not in bpy.types.Scene.bl_rna.properties:
        outputs = [node for node in tree.nodes if node.bl_idname == "CompositorNodeComposite"]
        node = next((node for node in outputs if not node.mute), None) or tree.nodes.new("CompositorNodeComposite")
        return node.inputs[0]
    if not any(item.item_type == "SOCKET" and item.in_out == "OUTPUT" for item in tree.interface.items_tree):
        tree.interface.new_socket(name="Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    outputs = [node for node in tree.nodes if node.bl_idname == "NodeGroupOutput"]
    node = next((node for node in outputs if node.is_active_output), None) or tree.nodes.new("NodeGroupOutput")
    return node.inputs[0]


def set_node_option(node: bpy.types.Node, name: str, value: str) -> None:
    """Set an option of a node by the property name and value of 4.5."""
    if name in node.bl_rna.properties:
        setattr(node, name, value)
    else:
        socket, values = _NODE_SOCKETS[name]
        node.inputs[socket].default_value = values[value]


# --- Output


def set_video_output(scene: bpy.types.Scene, path: str | Path, container: str = "MPEG4", codec: str = "H264") -> None:
    """Set the scene's output to a movie of the sequencer at exactly this path: by default MP4, H.264 and AAC."""
    render = scene.render
    if "media_type" in render.image_settings.bl_rna.properties:
        render.image_settings.media_type = "VIDEO"
    render.image_settings.file_format = "FFMPEG"
    render.ffmpeg.format, render.ffmpeg.codec, render.ffmpeg.audio_codec = container, codec, "AAC"
    render.ffmpeg.constant_rate_factor = "HIGH"
    render.use_sequencer = True
    render.use_file_extension = False
    render.filepath = str(path)


@contextmanager
def video_output(
    scene: bpy.types.Scene, path: str | Path, container: str = "MPEG4", codec: str = "H264"
) -> Iterator[None]:
    """Use the output settings of `set_video_output` inside the block, and restore them afterwards."""
    render = scene.render
    places = [(render.ffmpeg, name) for name in ("format", "codec", "audio_codec", "constant_rate_factor")]
    places += [(render.image_settings, name) for name in ("media_type", "file_format")]  # in this order
    places += [(render, name) for name in ("use_sequencer", "use_file_extension", "filepath")]
    before = [(owner, name, getattr(owner, name)) for owner, name in places if name in owner.bl_rna.properties]
    set_video_output(scene, path, container, codec)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
