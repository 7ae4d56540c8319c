"""Footage without labels: takes, their nine points, swapped mouths and the motion between two frames."""
