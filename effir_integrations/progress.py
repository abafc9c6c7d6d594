"""Progress bars: one look for all, and the one of encoding, which counts tokens as well."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm


def is_shown(asked: bool | None) -> bool:
    """Say whether to draw bars: as asked, and where nothing was said, if someone watches.

    Someone does in a notebook, and where standard error is a terminal.
    """
    return _is_watched() if asked is None else asked


def _is_watched() -> bool:
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    in_notebook = shell is not None and "IPKernelApp" in shell.config
    # a program without a console has no standard error
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())


def progress_bar(items: Any = None, *, shown: bool, **options: Any) -> Any:
    """Return a bar that draws nothing before the work has lasted two seconds, and then goes.

    Args:
        items: To run over, if the bar is to count them.
        shown: Whether to draw at all.
        options: Of `tqdm`: `total`, `desc`, `unit` and the like.
    """
    return tqdm(items, delay=2, leave=False, disable=not shown, **options)


class Progress:
    """A bar over texts that also counts their tokens."""

    def __init__(self, total: int | None, *, shown: bool) -> None:
        """Draw nothing before the work has lasted two seconds.

        Args:
            total: Texts; None where their number is not known.
            shown: Whether to draw at all.
        """
        self.tokens = 0
        self._start = time.perf_counter()
        self._bar: Any = progress_bar(total=total, desc="Encoding", unit="text", shown=shown)

    def advance(self, texts: int, tokens: int) -> None:
        """Count texts that are done, and their tokens."""
        self.tokens += tokens
        if (overall := _overall.get()) not in (None, self):
            overall.advance(texts, tokens)
        rate = self.tokens / (time.perf_counter() - self._start)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(texts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


_overall: ContextVar[Progress | None] = ContextVar("effir_overall_progress", default=None)


@contextmanager
def overall_progress(total: int, *, shown: bool) -> Iterator[None]:
    """Draw one bar over all that this thread encodes while the context lasts.

    Args:
        total: Texts of all calls together.
        shown: Whether to draw at all.
    """
    with Progress(total, shown=shown) as progress:
        token = _overall.set(progress)
        try:
            yield
        finally:
            _overall.reset(token)
