"""Operators by the work they do; each module registers its own."""
