"""Faces over filmed footage: compositing and dubbing."""
