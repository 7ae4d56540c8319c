"""The sequencer: strips, their audio and footage, and the map from scene frames to source time."""
