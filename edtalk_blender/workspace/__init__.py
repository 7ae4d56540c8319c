"""The workspace Talking Face: viewport, picture of the sequencer, sequencer and Graph Editor, with the EDTalk tab."""
