"""Detect faces, track them, cut them out and paste them back."""
