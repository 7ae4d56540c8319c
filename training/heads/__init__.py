"""Synthetic heads: people rendered from MakeHuman's CC0 mesh, with known coefficients and tracked points."""
