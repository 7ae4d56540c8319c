"""Synthetic speech with phone times, and simulated recording conditions."""
