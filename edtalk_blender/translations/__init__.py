"""Translations of the labels, and the context that keeps Blender's own translations of the same words away."""
