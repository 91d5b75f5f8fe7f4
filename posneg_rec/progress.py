"""Progress of a fit, told as the place allows: one line that is updated, or lines of a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from posneg_rec.training import EpochLog

__all__ = ["Progress"]

_logger = logging.getLogger("posneg_rec")

# A fit that says nothing for so many seconds tells, once a process, how to see more.
_LONG = 20.0
_WIDTH = 20
_told = False


class Progress:
    """Tell the epochs of a fit; a context, so that what was begun is ended.

    A terminal and a notebook have one line that is updated, anything else gets a line of stderr for
    each epoch. Without `verbose` a long fit says once that it runs, by the logger "posneg_rec".

    Parameters
    ----------
    n_epochs : int
        The most that there will be.
    verbose : int
        0 is silent, 1 updates one line where it can, more writes a line for each epoch.
    is_watched : bool, default=False
        Whether somebody else shows how far it is, a callback, say.
    """

    def __init__(self, n_epochs: int, verbose: int, *, is_watched: bool = False) -> None:
        self._n_epochs, self._verbose, self._is_watched = n_epochs, int(verbose), is_watched
        self._start = time.monotonic()
        self._handle: Any = None
        self._is_open = False

    def __enter__(self) -> Self:
        """Return the progress itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End an open line."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False

    def show(self, log: EpochLog) -> None:
        """Tell an epoch."""
        if not self._verbose:
            self._say_once(log)
            return
        line = self._line(log)
        if self._verbose == 1 and _in_notebook():
            self._update(line)
        elif self._verbose == 1 and sys.stderr.isatty():
            # Back to the start of the line, and clear the rest of it.
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_open = True
        else:
            print(line, file=sys.stderr, flush=True)

    def _update(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": line}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def _line(self, log: EpochLog) -> str:
        bar = ("#" * round(_WIDTH * log.epoch / self._n_epochs)).ljust(_WIDTH, ".")
        score = ""
        if log.validation_score is not None:
            score = f"  validation NDCG@10 {log.validation_score:.4f}"
        return (
            f"epoch {log.epoch:>{len(str(self._n_epochs))}}/{self._n_epochs} [{bar}]"
            f"  loss {log.losses['loss']:.4f}{score}  {log.seconds:.1f} s"
        )

    def _say_once(self, log: EpochLog) -> None:
        global _told
        seconds = time.monotonic() - self._start
        if _told or self._is_watched or seconds < _LONG or log.epoch >= self._n_epochs:
            return
        _told = True
        _logger.warning(
            "Fitting: %d of at most %d epochs in %.0f s. verbose=1 shows each of them; silence "
            "this by logging.getLogger('posneg_rec').setLevel('ERROR').",
            log.epoch,
            self._n_epochs,
            seconds,
        )


def _in_notebook() -> bool:
    """Tell whether a notebook shows what is displayed; a terminal's IPython is a terminal."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
