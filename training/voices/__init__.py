"""Synthetic speech with phone times, and room acoustics."""
