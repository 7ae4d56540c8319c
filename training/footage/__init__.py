"""Footage without labels: takes, their points, swapped mouths and the motion between two frames."""
