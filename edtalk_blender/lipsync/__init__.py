"""Lip sync from sound strips to keyframes."""
