"""The worker process as Blender sees it: finding, installing and talking to it."""
