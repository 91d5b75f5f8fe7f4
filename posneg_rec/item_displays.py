"""Pictures of items: a map of their vectors, and what a history does to their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec.display import Display, halo, muted, paper, text_colour, tidy
from posneg_rec.ranks import last_step
from posneg_rec.sequences import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ExplanationDisplay", "ItemMapDisplay"]

# Longer histories are told by the events that weigh most.
_MOST_EVENTS = 20
_LONGEST_NAME = 30


class ItemMapDisplay(Display):
    """Map of the item vectors in two dimensions, coloured by how often each item was liked.

    The two directions of most variance of the vectors, scaled to length 1 as
    ``similar_items`` compares them. Items that lie together need not be alike in the other
    directions: the axes say how much of the variance they hold.

    Parameters
    ----------
    items : ndarray of shape (n_items,)
        Raw ids.
    positions : ndarray of shape (n_items, 2)
    like_rate : ndarray of shape (n_items,)
        Share of likes among likes and dislikes; NaN of items without either.
    counts : ndarray of shape (n_items,), int
        Likes and dislikes together.
    explained_variance_ratio : ndarray of shape (2,)
        Share of the vectors' variance along each axis.
    labels : mapping of item id to str, default=None
        Names to write beside items.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    scatter_ : matplotlib PathCollection
        The items with feedback, the rarest drawn last.
    colorbar_ : matplotlib Colorbar
    texts_ : list of matplotlib Annotation
    """

    def __init__(
        self,
        *,
        items: NDArray[Any],
        positions: NDArray[np.float64],
        like_rate: NDArray[np.float64],
        counts: NDArray[np.int64],
        explained_variance_ratio: NDArray[np.float64],
        labels: Mapping[Any, str] | None = None,
    ) -> None:
        self.items = items
        self.positions = positions
        self.like_rate = like_rate
        self.counts = counts
        self.explained_variance_ratio = explained_variance_ratio
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        n_items: int | None = 1000,
        labels: Mapping[Any, str] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the items of a fitted recommender, or of a pipeline that ends in one.

        Parameters
        ----------
        estimator : fitted recommender
            With ``items_``, ``weights_``, ``item_likes_`` and ``item_dislikes_``.
        n_items : int, default=1000
            So many of the items with the most feedback; None draws all.
        labels : mapping of item id to str, default=None
            Names to write beside items, of as many as are to have one.
        ax : matplotlib Axes, default=None
            None makes a figure.

        Returns
        -------
        display : ItemMapDisplay

        Raises
        ------
        ValueError
            If the fit has fewer than two items, or a label is of an item that it does not have.
        """
        model = last_step(estimator)
        vectors = model.weights_["item_embedding"].astype(np.float64)
        if len(vectors) < 2:
            raise ValueError(f"A map needs two items, and the fit has {len(vectors)}.")
        positions, ratio = _two_directions(vectors)
        likes, counts = model.item_likes_, model.item_likes_ + model.item_dislikes_
        kept = np.argsort(-counts, kind="stable")[:n_items]
        with np.errstate(invalid="ignore"):
            like_rate = likes / counts
        return cls(
            items=model.items_[kept],
            positions=positions[kept],
            like_rate=like_rate[kept],
            counts=counts[kept],
            explained_variance_ratio=ratio,
            labels=labels,
        ).plot(ax)

    def plot(self, ax: Axes | None = None, *, cmap: str = "viridis", **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None makes a figure.
        cmap : str or Colormap, default="viridis"
            From never to always liked.
        **kwargs
            Options of matplotlib's ``scatter``.

        Returns
        -------
        self : ItemMapDisplay

        Raises
        ------
        ValueError
            If a label is of an item that is not on the map.
        """
        place = {item: i for i, item in enumerate(self.items.tolist())}
        labels = {} if self.labels is None else dict(self.labels)
        unknown = [item for item in labels if item not in place]
        if unknown:
            raise ValueError(
                f"labels has an item that is not on the map, {shorten(unknown[0])}: take ids of "
                f"items_ ({shorten(self.items[0])}, ...), and n_items=None for all of them."
            )
        ax = self._on_one(ax, figsize=(6.5, 5))
        text = text_colour()
        style = {"edgecolors": text, "linewidths": 0.3} | kwargs
        sizes = 10 + 90 * np.sqrt(self.counts / max(1, self.counts.max()))
        rated = self.counts > 0
        x, y = self.positions.T
        ax.scatter(x[~rated], y[~rated], s=10, color=muted(), marker="x", linewidths=0.7)
        self.scatter_ = ax.scatter(
            x[rated],
            y[rated],
            s=sizes[rated],
            c=self.like_rate[rated],
            cmap=cmap,
            vmin=0,
            vmax=1,
            **style,
        )
        self.colorbar_ = self.figure_.colorbar(self.scatter_, ax=ax, label="Share of likes")
        self.texts_ = [
            ax.annotate(
                name,
                self.positions[place[item]],
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize="small",
                path_effects=halo(ax),
            )
            for item, name in labels.items()
        ]
        for set_label, share in zip(
            (ax.set_xlabel, ax.set_ylabel), self.explained_variance_ratio, strict=True
        ):
            set_label(f"{share:.0%} of the variance")
        ax.set(xticks=[], yticks=[], aspect="equal")
        return self


class ExplanationDisplay(Display):
    """What raised and what held down each recommendation: one history, event by event.

    The effect of an event is what the score of an item loses without it: exact, one event at a
    time. Effects need not add up, for events stand in for each other.

    Parameters
    ----------
    history : ndarray of shape (n_events,)
        Item ids, oldest first.
    signs : ndarray of shape (n_events,), int
        1 liked, -1 disliked, 0 neutral.
    items : ndarray of shape (n_items,)
        The recommended items, best first.
    effects : ndarray of shape (n_events, n_items)
        In nats of the score.
    labels : mapping of item id to str, default=None
        Names of items.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (n_items,)
        One for each recommended item.
    figure_ : matplotlib Figure
    bars_ : list of matplotlib BarContainer
        One for each item; a bar for each event that is shown, the most recent on top.
    shown : ndarray of int
        Positions of these events in the history: all, or the twenty that weigh most.
    """

    def __init__(
        self,
        *,
        history: NDArray[Any],
        signs: NDArray[np.int8],
        items: NDArray[Any],
        effects: NDArray[np.float64],
        labels: Mapping[Any, str] | None = None,
    ) -> None:
        self.history = history
        self.signs = signs
        self.items = items
        self.effects = effects
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        history: ArrayLike,
        items: ArrayLike | None = None,
        *,
        feedback: ArrayLike | None = None,
        times: ArrayLike | None = None,
        k: int = 3,
        dislike_aversion: float | None = None,
        labels: Mapping[Any, str] | None = None,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Ask a fitted recommender with and without each event, and draw.

        Parameters
        ----------
        estimator : estimator with ``recommend`` and ``score_items``
        history : list or 1-D array of item ids
            Oldest first, with at least two events.
        items : array-like of item ids, default=None
            What to explain; None takes the `k` best recommendations.
        feedback, times, dislike_aversion
            As in ``recommend``.
        k : int, default=3
            How many recommendations.
        labels : mapping of item id to str, default=None
            Names of items.
        ax
            As in :meth:`plot`.

        Returns
        -------
        display : ExplanationDisplay

        Raises
        ------
        ValueError
            If the history has fewer than two events, or an item is unknown to the model.
        """
        ids = np.asarray(history, dtype=None if hasattr(history, "dtype") else object)
        if ids.ndim != 1 or len(ids) < 2:
            raise ValueError(
                "An explanation leaves out one event after the other and needs a history of at "
                f"least two, got shape {ids.shape}."
            )
        parts = {"feedback": feedback, "times": times}
        given = {name: np.asarray(part) for name, part in parts.items() if part is not None}
        for name, part in given.items():
            if len(part) != len(ids):
                raise ValueError(f"{name} has {len(part)} entries, the history {len(ids)} events.")
        own = {} if dislike_aversion is None else {"dislike_aversion": dislike_aversion}
        if items is None:
            items = estimator.recommend(ids, k, **given, **own)[0]
        asked = np.asarray(items, dtype=None if hasattr(items, "dtype") else object)
        whole = estimator.score_items(ids, asked, **given, **own)
        if np.isnan(whole).any():
            raise ValueError(
                f"The model does not know {shorten(asked[np.isnan(whole)][0])}, an item to explain."
            )
        effects = np.empty((len(ids), len(asked)))
        for event in range(len(ids)):
            rest = {name: np.delete(part, event) for name, part in given.items()}
            effects[event] = whole - estimator.score_items(
                np.delete(ids, event), asked, **rest, **own
            )
        signs = _signs(estimator, ids, given.get("feedback"))
        return cls(history=ids, signs=signs, items=asked, effects=effects, labels=labels).plot(ax)

    @classmethod
    def from_explanations(
        cls,
        explanations: Sequence[Any],
        *,
        labels: Mapping[Any, str] | None = None,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw what is known already of some items after one history.

        Parameters
        ----------
        explanations : sequence of objects with `item`, `items`, `signs` and `effects`
            The item explained, and the events of the history, the same in all: their items, signs
            and effects on its score.
        labels, ax
            As in :meth:`from_estimator`.

        Returns
        -------
        display : ExplanationDisplay

        Raises
        ------
        ValueError
            If there is none, or they are of different histories.
        """
        told = list(explanations)
        if not told or not len(told[0].items):
            raise ValueError("Expected at least one explanation, of a history with an event.")
        if not all(np.array_equal(one.items, told[0].items) for one in told):
            raise ValueError("The explanations are of different histories: draw one at a time.")
        return cls(
            history=told[0].items,
            signs=told[0].signs,
            items=np.array([one.item for one in told], dtype=object),
            effects=np.column_stack([one.effects for one in told]),
            labels=labels,
        ).plot(ax)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of n_items of them, default=None
            One Axes is divided; None makes a figure.

        Returns
        -------
        self : ExplanationDisplay
        """
        n_items = len(self.items)
        weight = np.abs(self.effects).max(1)
        self.shown = np.sort(np.argsort(-weight, kind="stable")[:_MOST_EVENTS])
        height = 1.5 + 0.28 * len(self.shown)
        self._on_panels(ax, (1,) * n_items, across=True, figsize=(2.2 + 2.4 * n_items, height))
        most = 1.05 * np.abs(self.effects[self.shown]).max(initial=1e-12)
        places = np.arange(len(self.shown))
        words = {1: "liked", -1: "disliked", 0: "neutral"}
        ticks = [
            f"{words[int(self.signs[event])]} {self._name(self.history[event])}"
            for event in self.shown
        ]
        self.bars_ = []
        for panel, item, effects in zip(self.axes_, self.items, self.effects.T, strict=True):
            effects = effects[self.shown]
            colours = np.where(effects >= 0, "C0", "C1").tolist()
            hatches = ["" if effect >= 0 else "//" for effect in effects]
            bars = panel.barh(places, effects, color=colours, hatch=hatches, edgecolor=paper(panel))
            self.bars_.append(bars)
            panel.axvline(0, color=text_colour(), linewidth=0.8)
            panel.set(xlim=(-most, most), ylim=(-0.6, len(places) - 0.4))
            panel.set_title(self._name(item, "item "), fontsize="medium")
            panel.set_yticks(places, ticks)
            panel.tick_params(axis="y", length=0, labelleft=panel is self.axes_[0])
            tidy(panel)
        self.axes_[0].set_ylabel("History, most recent on top", fontsize="small")
        middle = self.axes_[(n_items - 1) // 2]
        middle.set_xlabel(
            "held it down  \N{LEFTWARDS ARROW}  effect on the score (nats)  "
            "\N{RIGHTWARDS ARROW}  raised it",
            fontsize="small",
        )
        return self

    def _name(self, item: Any, kind: str = "") -> str:
        item = item.item() if isinstance(item, np.generic) else item
        name = str((self.labels or {}).get(item, f"{kind}{item}"))
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
        return name


def _two_directions(
    vectors: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions along the two directions of most variance, and the share that each holds."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    vectors = vectors - vectors.mean(0)
    if vectors.shape[1] == 1:
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    variances, directions = np.linalg.eigh(vectors.T @ vectors)
    directions = directions[:, :-3:-1]  # of the two largest
    # Their sign is open: the same model is to give the same map.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.where(directions[largest, [0, 1]] < 0, -1, 1)
    total = max(variances.sum(), np.finfo(np.float64).tiny)
    return vectors @ directions, np.maximum(variances[:-3:-1], 0) / total


def _signs(estimator: Any, history: NDArray[Any], feedback: Any) -> NDArray[np.int8]:
    """Read the feedback of one history as the model does."""
    from posneg_rec.interactions import read_history

    model = last_step(estimator)
    coding = None if feedback is None else getattr(model, "feedback_coding_", None)
    _, signs = read_history(
        history,
        feedback,
        positive_threshold=getattr(model, "positive_threshold", None),
        feedback_coding=coding,
    )
    return signs
