"""`python -m effir_integrations.cli` is `effir`, for launchers that take a module."""

from __future__ import annotations

from . import main

if __name__ == "__main__":
    main()
