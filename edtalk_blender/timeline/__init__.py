"""Time in the sequencer: strips, footage and the map from strip time to scene frames."""
