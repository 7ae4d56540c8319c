"""What Blender and the engine share: file formats, messages, errors. Standard library and numpy only."""
