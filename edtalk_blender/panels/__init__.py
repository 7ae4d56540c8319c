"""Panels in the sidebars of the 3D View and the Sequencer, and menu entries."""
