"""Registers the translations. Locales are named "de" and "ja" since Blender 5.0, "de_DE" and "ja_JP" before."""

from __future__ import annotations

import bpy

from . import german, japanese
from .context import CONTEXT

LANGUAGES = {
    "de": german.LABELS,
    "de_DE": german.LABELS,
    "ja": japanese.LABELS,
    "ja_JP": japanese.LABELS,
}


def register() -> None:
    tables = {
        locale: {(CONTEXT, text): translation for text, translation in labels.items()}
        for locale, labels in LANGUAGES.items()
    }
    bpy.app.translations.register(__name__, tables)


def unregister() -> None:
    bpy.app.translations.unregister(__name__)
