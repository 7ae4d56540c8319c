"""What the extension knows without Blender: nothing below imports bpy."""
