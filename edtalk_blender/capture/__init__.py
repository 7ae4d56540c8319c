"""Facial performance from movies, images and ARKit recordings to keyframes."""
