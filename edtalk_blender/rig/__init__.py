"""Driving the shape keys of a 3D face."""
