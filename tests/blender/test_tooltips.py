"""Every property that an artist sees has a description, and every number names its unit or range."""

import re

import bpy
import pytest

UNIT_OR_RANGE = re.compile(
    r"\b(frames?|seconds?|minutes?|pixels?|degrees?|per cent|GB|units?|metres?|[Nn]umber|rows|stops)\b"
    r"|from -?[\d.]+ to -?[\d.]+|\b[01](\.0)? (is|keeps|disables|removes)\b",
)


def properties(package) -> dict[str, bpy.types.Property]:
    """All properties of operators, property groups and the preferences, by owner and name."""
    found = {}
    for name in dir(bpy.ops.edtalk):
        for one in getattr(bpy.ops.edtalk, name).get_rna_type().properties:
            if one.identifier != "rna_type":
                found[f"edtalk.{name}.{one.identifier}"] = one
    for module in package.modules():
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, bpy.types.PropertyGroup | bpy.types.AddonPreferences):
                for name in cls.__annotations__:
                    found[f"{cls.__name__}.{name}"] = cls.bl_rna.properties[name]
    return found


@pytest.fixture
def shown(package) -> dict[str, bpy.types.Property]:
    everything = properties(package)
    assert len(everything) > 100
    return {name: one for name, one in everything.items() if not one.is_hidden}


def test_every_property_has_a_description(shown):
    bare = [name for name, one in shown.items() if not one.description or one.description == one.name]
    assert bare == []


def test_descriptions_end_without_a_period(shown):
    """Blender adds it."""
    assert [name for name, one in shown.items() if one.description.endswith(".")] == []


def test_every_number_names_its_unit_or_range(shown):
    numbers = {name: one for name, one in shown.items() if one.type in ("INT", "FLOAT")}
    assert len(numbers) > 20
    vague = {name: one.description for name, one in numbers.items() if not UNIT_OR_RANGE.search(one.description)}
    assert vague == {}
