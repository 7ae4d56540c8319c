"""`python -m inference`, or from any folder `python PATH/TO/inference`, as a farm's machines start it."""

import sys

if __package__:
    from .cli import main
else:  # started by its path, which Python then searches for modules: its parent is what holds the package
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from inference.cli import main

sys.exit(main())
