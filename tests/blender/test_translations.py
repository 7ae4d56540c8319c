"""The translation context of all labels, and the German and Japanese dictionaries."""

import bpy
import pytest

# Labels that a dictionary may lack, because they were added after the last translation. They are shown in English.
LACKING = 0.1


@pytest.fixture
def translations(package):
    return package.translations


def own_classes(package):
    """All registered classes of the extension."""
    return [
        cls
        for module in package.modules()
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, bpy.types.bpy_struct) and cls.__module__ == module.__name__
    ]


def test_no_label_is_translated_by_blenders_dictionary(package, translations):
    context = translations.context.CONTEXT
    assert len(own_classes(package)) > 100
    for cls in own_classes(package):
        if hasattr(cls, "bl_label"):
            assert cls.bl_translation_context == context, cls
        known = cls
        if issubclass(cls, bpy.types.Operator):
            module, name = cls.bl_idname.split(".")
            known = getattr(getattr(bpy.ops, module), name).get_rna_type()
        else:
            known = getattr(cls, "bl_rna", None)
        own = [name for part in cls.__mro__ for name in getattr(part, "__annotations__", {})]
        for prop in known.properties if known else ():
            if prop.identifier in own and prop.identifier not in ("filepath", "check_existing", "filter_glob"):
                assert prop.translation_context == context, f"{cls}: {prop.identifier}"


@pytest.mark.parametrize("language", ["german", "japanese"])
def test_a_dictionary_has_all_labels(translations, language):
    labels = getattr(translations, language).LABELS
    wanted = translations.template.messages()
    assert len(wanted) > 250
    assert {"Face", "Speaker", "Jaw Open", "Happy", "Key Emotion"} <= set(wanted)
    lacking = [text for text in wanted if not labels.get(text)]
    assert len(lacking) <= LACKING * len(wanted), lacking
    unused = set(labels) - set(wanted) - {"Neutral"}
    assert len(unused) <= LACKING * len(wanted), unused
    assert all(text.strip() == text for text in labels.values())


def test_languages_are_registered_for_every_spelling_of_their_locale(translations):
    tables = translations.catalogue.LANGUAGES
    assert tables["de"] is tables["de_DE"]
    assert tables["ja"] is tables["ja_JP"]
    for labels in tables.values():
        assert labels["Face"] not in ("Fläche", "面"), "not the face of a mesh"
        assert labels["Speaker"] != "Lautsprecher"


def test_translations_are_used_where_blender_has_languages(translations):
    if not bpy.app.build_options.international:
        pytest.skip("this Blender was built without languages")
    view = bpy.context.preferences.view
    view.language = "de_DE" if "de_DE" in bpy.app.translations.locales else "de"
    try:
        assert translations.context.translated("Face") == "Gesicht"
    finally:
        view.language = "en_US"
