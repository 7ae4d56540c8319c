"""Keyframes, sampling, poses and emotions."""
