"""Why an item scores as it does after a history: what each event adds, and a table to show it.

Nothing here knows how scores are made; :mod:`fitted` makes them of the history with all its events
and with all but one.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posneg_rec.sequences import shorten

__all__ = ["Explanation"]

# Events in a table, and in a sentence of each kind.
_MOST_ROWS, _MOST_NAMED = 10, 3
# Effects below this share of the largest are rounding to a reader.
_LEAST_SHARE = 1e-3
_READ_AS = {1: "liked", 0: "neutral", -1: "disliked"}


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What each event of a history does to the score of one item.

    The effect of an event is the score with the whole history minus the score with all but that
    event: positive where it raised the item, negative where it held it down. Effects are exact,
    and need not sum up to the score: two events may say the same, or speak only together.

    Attributes
    ----------
    item : object
        Raw id of the item explained.
    score : float
        ``log p(next)`` plus the log of the item's worth, of "pnfrec" a logit: what `score_items`
        returns.
    next_score, liked_score : float
        The two parts of it; the second depends on the aversion.
    seen : bool
        Whether the history holds the item.
    items : ndarray of shape (n_events,)
        Raw id of each event, oldest first.
    signs : int8 ndarray of shape (n_events,)
        +1 liked, 0 neutral, -1 disliked.
    known : bool ndarray of shape (n_events,)
        Whether the model knows the item of the event. Others tell at most how time passed.
    effects : float32 ndarray of shape (n_events,)
        What each event adds to the score.
    next_effects, liked_effects : float32 ndarrays of shape (n_events,)
        What it adds to each part; they sum up to `effects`.
    memory_effects : float32 ndarray of shape (n_events,)
        How much of `effects` is the memory's: what the score would lose if the memory alone
        forgot the event. 0 of a model without one.
    """

    item: Any
    score: float
    next_score: float
    liked_score: float
    seen: bool
    items: NDArray[Any]
    signs: NDArray[np.int8]
    known: NDArray[np.bool_]
    effects: NDArray[np.float32]
    next_effects: NDArray[np.float32]
    liked_effects: NDArray[np.float32]
    memory_effects: NDArray[np.float32]

    def top(self, n: int = _MOST_ROWS) -> NDArray[np.int64]:
        """Return the positions of the n events of the largest effects, largest first.

        Equal effects go by position, the latest first.
        """
        positions = np.arange(len(self.effects))
        return np.lexsort((-positions, -np.abs(self.effects)))[:n]

    def reasons(self) -> list[tuple[str, list[Any]]]:
        """Name the events that did most: pairs of what they did and the items.

        For example ``[("because you liked", ["A"]), ("held down because you disliked", ["B"])]``.
        """
        least = _LEAST_SHARE * float(np.abs(self.effects).max(initial=0.0))
        found = []
        for does, raises in (("because", True), ("held down because", False)):
            for sign in (1, -1, 0):
                named: list[Any] = []
                for place in self.top(len(self.effects)).tolist():
                    effect = float(self.effects[place])
                    if (effect > least if raises else effect < -least) and (
                        self.signs[place] == sign and self.items[place] not in named
                    ):
                        named.append(self.items[place])
                if named:
                    verb = "met" if sign == 0 else _READ_AS[sign]
                    found.append((f"{does} you {verb}", named[:_MOST_NAMED]))
        return found

    def _title(self) -> str:
        parts = f"next {self.next_score:.2f}, liked {self.liked_score:+.2f}"
        seen = ", in the history already" if self.seen else ""
        return f"{_shown(self.item)}: score {self.score:.2f} ({parts}){seen}"

    def _sentence(self) -> str:
        reasons = [f"{does} {', '.join(map(_shown, items))}" for does, items in self.reasons()]
        if not len(self.effects):
            return "no event to explain it by: what is popular and liked"
        return "; ".join(reasons) or "no event changes it"

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        head = ["event", "item", "", "effect", "next", "liked"]
        columns = [self.effects, self.next_effects, self.liked_effects]
        if self.memory_effects.any():
            head.append("memory")
            columns.append(self.memory_effects)
        rows = []
        for place in self.top().tolist():
            read = _READ_AS[int(self.signs[place])] if self.known[place] else "unknown"
            numbers = [f"{column[place]:+.3f}" for column in columns]
            rows.append([str(place), _shown(self.items[place]), read, *numbers])
        return head, rows

    def _rest(self) -> str:
        n_left = len(self.effects) - _MOST_ROWS
        return f"and {n_left} more events of smaller effects" if n_left > 0 else ""

    def __repr__(self) -> str:
        """Return a short table of the events that did most."""
        head, rows = self._rows()
        lines = [self._title(), self._sentence()]
        if rows:
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            for row in (head, *rows):
                cells = [
                    cell.ljust(width) if place in (1, 2) else cell.rjust(width)
                    for place, (cell, width) in enumerate(zip(row, widths, strict=True))
                ]
                lines.append("  ".join(cells).rstrip())
        return "\n".join(filter(None, [*lines, self._rest()]))

    def _repr_html_(self) -> str:
        """Return the same as a table of HTML, in which every text is escaped."""
        head, rows = self._rows()

        def line(cells: list[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(line(row, "td") for row in rows)
        table = f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
        parts = [f"<p><b>{escape(self._title())}</b><br>{escape(self._sentence())}</p>"]
        parts += [table] if rows else []
        parts += [f"<p>{escape(self._rest())}</p>"] if self._rest() else []
        return f"<div>{''.join(parts)}</div>"


def _shown(value: Any) -> str:
    """Show an id on one line, cut; text without quotes, unless it has what does not print."""
    if isinstance(value, str) and value.isprintable() and value.strip():
        quoted = shorten(value)
        return quoted if quoted.endswith("...") else str(value)
    return shorten(value.item() if isinstance(value, np.generic) else value)
