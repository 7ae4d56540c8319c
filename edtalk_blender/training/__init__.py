"""Banks from footage: trainings that run outside Blender, their settings and their state."""
