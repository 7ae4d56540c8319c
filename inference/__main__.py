"""Entry point of `python -m inference`, and of `python PATH/TO/inference` from any folder, as farm machines use it."""

import sys

if __package__:
    if sys.argv[1:2] == ["worker"]:  # before the other modules, so that it has the most time
        from .preload import load_torch_libraries

        load_torch_libraries()
    from .cli import main
    from .memory import keep_freed_memory
else:  # started by its path: put the folder that contains the package on the search path
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from inference.cli import main
    from inference.memory import keep_freed_memory

keep_freed_memory()
sys.exit(main())
