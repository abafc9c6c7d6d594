"""`python -m effir_integrations` is `effir`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
