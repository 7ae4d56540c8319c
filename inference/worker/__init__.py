"""The worker process that serves Blender."""
