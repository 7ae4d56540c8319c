"""The compositor node group that lays a face over its plate, with controls for colour, blur and grain."""

from __future__ import annotations

import bpy

from .. import compat

GROUP, GROUP_VERSION = "edtalk_group", 1  # custom property of the node group, and the version of its nodes

# Inputs of the group besides plate and face: name, description, default, minimum, maximum.
_CONTROLS = (
    ("Amount", "Opacity of the face over the plate", 1.0, 0.0, 1.0),
    ("Exposure", "Brightness of the face in stops", 0.0, -10.0, 10.0),
    ("Saturation", "Saturation of the face's colors", 1.0, 0.0, 2.0),
    ("Match", "Match the face's average colors to the plate under it", 0.0, 0.0, 1.0),
    ("Match Radius", "Radius in pixels over which Match averages colors", 40.0, 1.0, 500.0),
    ("Blur", "Blur radius of the face in pixels; its edge stays sharp", 0.0, 0.0, 50.0),
    ("Grain", "Strength of the noise on the face", 0.0, 0.0, 1.0),
    ("Grain Size", "Size of a grain in pixels", 1.0, 1.0, 20.0),
    ("First Frame", "First frame that shows the face", 1.0, -1e6, 1e6),
    ("Last Frame", "Last frame that shows the face", 250.0, -1e6, 1e6),
)


def get_or_create() -> bpy.types.NodeTree:
    """The node group that all faces share. It is made once per .blend, so that the artist's changes to it stay."""
    groups = [tree for tree in bpy.data.node_groups if tree.get(GROUP) == GROUP_VERSION and tree.library is None]
    return groups[0] if groups else _create()


def _create() -> bpy.types.NodeTree:
    tree = bpy.data.node_groups.new("EDTalk Face", "CompositorNodeTree")
    tree[GROUP] = GROUP_VERSION
    for name, in_out in (("Image", "OUTPUT"), ("Face", "OUTPUT"), ("Plate", "INPUT"), ("Face", "INPUT")):
        socket = tree.interface.new_socket(name=name, in_out=in_out, socket_type="NodeSocketColor")
        if in_out == "INPUT":
            socket.default_value = (0.0, 0.0, 0.0, 0.0)
    for name, description, default, lowest, highest in _CONTROLS:
        socket = tree.interface.new_socket(name=name, in_out="INPUT", socket_type="NodeSocketFloat")
        socket.default_value, socket.min_value, socket.max_value = default, lowest, highest
        socket.description = description
        socket.subtype = "FACTOR" if (lowest, highest) == (0.0, 1.0) else "NONE"

    inputs = _node(tree, "NodeGroupInput", (-900, 0)).outputs
    alpha = _node(tree, "CompositorNodeSeparateColor", (-660, -260), Image=inputs["Face"]).outputs["Alpha"]
    brighter = _node(tree, "CompositorNodeExposure", (-660, 120), Image=inputs["Face"], Exposure=inputs["Exposure"])
    graded = _node(tree, "CompositorNodeHueSat", (-440, 120), Image=brighter, Saturation=inputs["Saturation"])
    matched = _matched(tree, inputs, graded.outputs["Image"], alpha)

    soft = _node(tree, "CompositorNodeBlur", (820, 120), "Blur", Image=matched, Size=inputs["Blur"])
    compat.set_node_option(soft, "filter_type", "FAST_GAUSS")
    straight = _node(tree, "CompositorNodePremulKey", (1040, 120), Image=soft)
    compat.set_node_option(straight, "mapping", "PREMUL_TO_STRAIGHT")
    grained = _grained(tree, inputs, straight.outputs["Image"])

    frame = _node(tree, "CompositorNodeSceneTime", (820, -560)).outputs["Frame"]
    after_start = _math(
        tree, "GREATER_THAN", (1240, -480), frame, _math(tree, "SUBTRACT", (1040, -480), inputs["First Frame"], 0.5)
    )
    before_end = _math(
        tree, "LESS_THAN", (1240, -660), frame, _math(tree, "ADD", (1040, -660), inputs["Last Frame"], 0.5)
    )
    factor = _math(tree, "MULTIPLY", (1440, -560), after_start, before_end)
    factor = _math(tree, "MULTIPLY", (1640, -480), factor, inputs["Amount"])
    matte = _math(tree, "MULTIPLY", (1840, -260), factor, alpha)

    edged = _node(tree, "CompositorNodeSetAlpha", (2040, 120), "Matte", Image=grained, Alpha=matte)
    compat.set_node_option(edged, "mode", "REPLACE_ALPHA")
    layer = _node(tree, "CompositorNodePremulKey", (2240, 120), Image=edged)
    compat.set_node_option(layer, "mapping", "STRAIGHT_TO_PREMUL")
    over = _node(tree, "CompositorNodeAlphaOver", (2440, 200))
    below, above = [socket for socket in over.inputs if socket.type == "RGBA"]
    tree.links.new(inputs["Plate"], below)
    tree.links.new(layer.outputs["Image"], above)
    _node(tree, "NodeGroupOutput", (2660, 120), Image=over, Face=layer)
    return tree


def _matched(
    tree: bpy.types.NodeTree, inputs: bpy.types.NodeInputs, face: bpy.types.NodeSocket, alpha: bpy.types.NodeSocket
) -> bpy.types.Node:
    """The face with its blurred colours moved by Match towards the blurred colours of the plate under the matte."""
    enabled = _math(tree, "GREATER_THAN", (-440, -420), inputs["Match"], 0.0)
    radius = _math(tree, "MULTIPLY", (-240, -420), enabled, inputs["Match Radius"])
    under = _node(
        tree, "CompositorNodeSetAlpha", (-440, -120), "Plate under the Face", Image=inputs["Plate"], Alpha=alpha
    )
    compat.set_node_option(under, "mode", "APPLY")
    averages = []
    for picture, place in ((under.outputs["Image"], (-40, -120)), (face, (-40, -340))):
        blur = _node(tree, "CompositorNodeBlur", place, "Average", Image=picture, Size=radius)
        compat.set_node_option(blur, "filter_type", "FAST_GAUSS")
        averages.append(blur.outputs["Image"])
    difference = _vector(tree, "SUBTRACT", (180, -120), *averages)
    weight = _node(tree, "CompositorNodeSeparateColor", (180, -340), Image=averages[1]).outputs["Alpha"]
    weight = _math(tree, "DIVIDE", (500, -340), alpha, _math(tree, "MAXIMUM", (340, -340), weight, 1e-3))
    share = _math(tree, "MULTIPLY", (340, -520), weight, inputs["Match"])
    shifted = _vector(tree, "ADD", (500, 120), face, _vector(tree, "SCALE", (500, -120), difference, Scale=share))
    matched = _node(tree, "CompositorNodeSetAlpha", (660, 120), "Matched", Image=shifted, Alpha=alpha)
    compat.set_node_option(matched, "mode", "REPLACE_ALPHA")
    return matched


def _grained(
    tree: bpy.types.NodeTree, inputs: bpy.types.NodeInputs, picture: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    """An image multiplied by noise around 1 that changes every frame."""
    pixel = _node(tree, "CompositorNodeImageCoordinates", (820, -120), Image=inputs["Face"]).outputs["Pixel"]
    grain = _vector(tree, "DIVIDE", (1040, -120), pixel, inputs["Grain Size"])
    grain = _vector(tree, "FLOOR", (1240, -120), grain)
    time = _node(tree, "CompositorNodeSceneTime", (1240, -300)).outputs["Frame"]
    noise = _node(tree, "ShaderNodeTexWhiteNoise", (1440, -120))
    noise.noise_dimensions = "4D"
    tree.links.new(grain, noise.inputs["Vector"])
    tree.links.new(time, noise.inputs["W"])
    around = _math(tree, "SUBTRACT", (1640, -120), noise.outputs["Value"], 0.5)
    factor = _math(tree, "MULTIPLY", (1640, -300), around, _math(tree, "MULTIPLY", (1440, -300), inputs["Grain"], 2.0))
    return _vector(tree, "SCALE", (1840, 120), picture, Scale=_math(tree, "ADD", (1840, -60), factor, 1.0))


def _node(
    tree: bpy.types.NodeTree,
    kind: str,
    place: tuple[int, int],
    label: str = "",
    **inputs: bpy.types.NodeSocket | bpy.types.Node,
) -> bpy.types.Node:
    """A new node. inputs: sockets to link to its inputs by name; a node stands for its first output."""
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
