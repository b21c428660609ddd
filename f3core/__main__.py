"""``python -m f3core``: the command line, also for launchers that start a module (``accelerate launch -m f3core``)."""

from __future__ import annotations

from f3core.cli import main

if __name__ == "__main__":
    main()
