"""How far something long is, told as the place allows: one line that is updated, or a log's lines.

One mechanism for all that can take long: the epochs of a fit (:class:`EpochProgress`), answers to
many users, ranks of many targets and downloads (:class:`ShareProgress`). Needs nothing but Python,
so that both doors to a model have it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from posneg_rec.training import EpochLog

__all__ = ["EpochProgress", "ShareProgress", "Watch"]

_logger = logging.getLogger("posneg_rec")

# What says nothing for so many seconds tells, once a process, how to see more.
_LONG = 20.0
# Of what is no epoch: a line that is updated appears after so many seconds, then so often; ...
_DELAY, _OFTEN = 1.0, 0.1
# ... the lines of a log come so seldom, or so often where many were asked for.
_SELDOM, _EACH = 10.0, 1.0
_WIDTH = 20
_told = False

_Job = TypeVar("_Job")


class Watch(Protocol):
    """What passes on the jobs of a stage: to ask for the next is to have done one."""

    def __call__(self, jobs: Iterable[_Job], n_jobs: int, /) -> Iterable[_Job]:
        """Pass them on."""


class _Progress:
    """A line that is updated, or lines; a context, so that what was begun is ended.

    A terminal and a notebook have one line that is updated, anything else gets lines of stderr.

    Parameters
    ----------
    verbose : int or None
        0 says once that it takes long, 1 updates one line where it can, more writes lines. None is
        silent.
    """

    def __init__(self, verbose: int | None) -> None:
        self._verbose = None if verbose is None else int(verbose)
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

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def _is_updated(self) -> bool:
        return self._verbose == 1 and (_in_notebook() or sys.stderr.isatty())

    def _write(self, line: str) -> None:
        if not self._is_updated:
            print(line, file=sys.stderr, flush=True)
        elif _in_notebook():
            self._update(line)
        else:
            # Back to the start of the line, and clear the rest of it.
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_open = True

    def _update(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": line}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def _say_once(self, how_far: str, how_to_see_more: str) -> None:
        global _told
        if _told or self._seconds < _LONG:
            return
        _told = True
        _logger.warning(
            "%s in %.0f s. %s; silence this by logging.getLogger('posneg_rec').setLevel('ERROR').",
            how_far,
            self._seconds,
            how_to_see_more,
        )


class EpochProgress(_Progress):
    """Tell the epochs of a fit, each of them.

    Parameters
    ----------
    n_epochs : int
        The most that there will be.
    verbose : int
        0 is silent, but that a long fit says once, by the logger "posneg_rec", that it runs.
        1 updates one line where it can, more writes a line for each epoch.
    is_watched : bool, default=False
        Whether somebody else shows how far it is, a callback, say.
    """

    def __init__(self, n_epochs: int, verbose: int, *, is_watched: bool = False) -> None:
        super().__init__(verbose)
        self._n_epochs, self._is_watched = n_epochs, is_watched

    def show(self, log: EpochLog) -> None:
        """Tell an epoch."""
        if self._verbose:
            self._write(self._line(log))
        elif not self._is_watched and log.epoch < self._n_epochs:
            how_far = f"Fitting: {log.epoch} of at most {self._n_epochs} epochs"
            self._say_once(how_far, "verbose=1 shows each of them")

    def _line(self, log: EpochLog) -> str:
        score = ""
        if log.validation_score is not None:
            score = f"  validation NDCG@10 {log.validation_score:.4f}"
        return (
            f"epoch {log.epoch:>{len(str(self._n_epochs))}}/{self._n_epochs} "
            f"{_bar(log.epoch / self._n_epochs)}"
            f"  loss {log.losses['loss']:.4f}{score}  {log.seconds:.1f} s"
        )


class ShareProgress(_Progress):
    """Tell which share of something is done; what is over at once is not worth a line.

    Parameters
    ----------
    title : str
        What is done, "Ranking 9 targets", say.
    verbose : int or None
        As for the epochs of a fit; None is silent, whatever it takes.
    how_to_see_more : str, default="verbose=1 shows how far it is"
    """

    def __init__(
        self,
        title: str,
        verbose: int | None,
        *,
        how_to_see_more: str = "verbose=1 shows how far it is",
    ) -> None:
        super().__init__(verbose)
        self._title, self._how_to_see_more = title, how_to_see_more
        self._is_begun = False
        self._shown = 0.0  # when something was

    def show(self, share: float | None, detail: str = "") -> None:
        """Tell a share, or that it is unknown."""
        now = self._seconds
        if not self._verbose:
            if self._verbose is not None:
                how_far = "under way" if share is None else f"{_percent(share)} done"
                self._say_once(f"{self._title}: {how_far}", self._how_to_see_more)
            return
        if self._is_updated:
            pause = _OFTEN if self._is_begun else _DELAY
        else:
            pause = _SELDOM if self._verbose == 1 else _EACH
        # What was begun is told to its end.
        if now - self._shown >= pause or (self._is_begun and share == 1):
            self._is_begun, self._shown = True, now
            bar = "" if share is None else f" {_bar(share)} {_percent(share):>5}"
            self._write(f"{self._title}{bar}  {now:.1f} s{'  ' if detail else ''}{detail}")

    def stages(self, n_stages: int, start: float = 0.0, stop: float = 1.0) -> Watch:
        """Make what watches the jobs of stages that are alike in size, one after the other.

        Parameters
        ----------
        n_stages : int
            Further ones change nothing.
        start, stop : float, default=0.0, 1.0
            What of the whole they are.
        """
        n_begun = 0

        def watch(jobs: Iterable[_Job], n_jobs: int, /) -> Iterator[_Job]:
            nonlocal n_begun
            stage, n_begun = n_begun, n_begun + 1
            for n_done, job in enumerate(jobs, 1):
                yield job
                share = (stage + n_done / n_jobs) / n_stages
                if share <= 1:
                    self.show(stop if share == 1 else start + (stop - start) * share)

        return watch


def _bar(share: float) -> str:
    return f"[{('#' * round(_WIDTH * share)).ljust(_WIDTH, '.')}]"


def _percent(share: float) -> str:
    return f"{int(100 * share)} %"  # rounded down: 100 is the end


def _in_notebook() -> bool:
    """Tell whether a notebook shows what is displayed; a terminal's IPython is a terminal."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
