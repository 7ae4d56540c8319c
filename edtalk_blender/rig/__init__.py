"""Drive the shape keys of a 3D head."""
