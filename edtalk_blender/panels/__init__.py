"""Panels by the editor they appear in; each module registers its own."""
