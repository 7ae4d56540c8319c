"""Finding, tracking, cutting out and pasting back faces."""
