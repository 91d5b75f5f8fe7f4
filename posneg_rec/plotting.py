"""Pictures of a fit, of a model and of what it answers, in the style of scikit-learn's displays.

A display holds the numbers, ``plot`` draws them, on axes of the caller's or new ones, and keeps
what it drew. Colours, fonts and backgrounds are those of the matplotlib style in use, dark ones as
well.
matplotlib is imported when something is drawn: ``pip install 'posneg-rec[plot]'`` brings it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec.evaluation import AversionCurve, Evaluation, aversion_curve, evaluate
from posneg_rec.ranks import GAINS, MetricName, Targets, check_option
from posneg_rec.sequences import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AversionCurveDisplay",
    "ExplanationDisplay",
    "ItemMapDisplay",
    "LikeCalibrationDisplay",
    "TradeoffDisplay",
    "TrainingDisplay",
]

_METRICS: dict[str, str] = {"hit_rate": "Hit rate", "ndcg": "NDCG", "mrr": "MRR"}
# Labels of points stand so far apart, in points of 1/72 inch.
_LABEL_DISTANCE = 14
# Longer histories are told by the events that weigh most.
_MOST_EVENTS = 20
_LONGEST_NAME = 30


class TrainingDisplay:
    """Learning curve of a fit: the loss and its terms, and the score of the validation part.

    Make one by :meth:`from_estimator`.

    Parameters
    ----------
    history : dict of str to list
        ``history_`` of a fitted recommender.
    name : str, default=None
        Put before the labels of the lines, to tell models apart.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (1,) or (2,)
        Of the losses and, if there is a validation part, of its score.
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        By the name of the column of `history`.
    best_line_ : matplotlib Line2D or None
        Marks the epoch of the best validation score.

    Examples
    --------
    >>> from posneg_rec.plotting import TrainingDisplay
    >>> history = {"epoch": [1, 2], "loss": [5.0, 4.5], "validation_score": [0.1, 0.2]}
    >>> display = TrainingDisplay(history=history).plot()  # doctest: +SKIP
    """

    def __init__(self, *, history: Mapping[str, Sequence[Any]], name: str | None = None) -> None:
        self.history = history
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Axes | Sequence[Axes] | None = None, name: str | None = None
    ) -> Self:
        """Draw the learning curve of a fitted recommender, or of a pipeline that ends in one.

        Parameters
        ----------
        estimator : fitted recommender
            With ``history_``.
        ax, name
            As in :meth:`plot`.

        Returns
        -------
        display : TrainingDisplay
        """
        return cls(history=_last_step(estimator).history_, name=name).plot(ax)

    def plot(self, ax: Axes | Sequence[Axes] | None = None, *, name: str | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            ``axes_`` of another display to draw on them as well, one Axes to divide, or None for
            a new figure.
        name : str, default=None
            Instead of the display's.

        Returns
        -------
        self : TrainingDisplay

        Raises
        ------
        ValueError
            If no epoch was run, or the number of axes is wrong.
        """
        epochs = np.asarray(self.history["epoch"])
        if not len(epochs):
            raise ValueError("history_ holds no epoch: there was nothing to train on.")
        scores = np.array(self.history.get("validation_score", []), dtype=np.float64)
        has_scores = bool(np.isfinite(scores).any())
        axes = _panels(self, ax, (3, 2) if has_scores else (1,))
        name = self.name if name is None else name
        prefix = "" if name is None else f"{name}: "
        self.axes_, self.figure_ = axes, axes[0].figure
        terms = [column for column in self.history if column.endswith("loss")]
        # Of one term alone the loss is that term.
        self.lines_ = {}
        for column in terms:
            values = np.asarray(self.history[column], dtype=np.float64)
            label = prefix + column.replace("_", " ")
            (self.lines_[column],) = axes[0].plot(
                epochs, values, label=label, marker=".", linestyle="-" if column == "loss" else "--"
            )
        axes[0].set_ylabel("Training loss (nats)")
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]) if _has_negative(axes[0]) else 0)
        self.best_line_ = None
        if has_scores:
            (self.lines_["validation_score"],) = axes[1].plot(
                epochs, scores, marker=".", label=f"{prefix}validation"
            )
            best = int(epochs[np.nanargmax(scores)])
            colour = self.lines_["validation_score"].get_color()
            self.best_line_ = axes[1].axvline(
                best, color=colour, linestyle=":", label=f"{prefix}best, epoch {best}"
            )
            axes[1].set_ylabel("NDCG@10 on likes")
            axes[1].set_ylim(bottom=0)
        axes[-1].set_xlabel("Epoch")
        for panel in axes:
            panel.xaxis.get_major_locator().set_params(integer=True)
            _tidy(panel)
            panel.legend(frameon=False, fontsize="small")
        return self


class TradeoffDisplay:
    """Likes found against dislikes shown: a curve over the aversion, or a point.

    Like a ROC curve: to the right are the disliked targets that would have been recommended, which
    is to be small, upwards the liked ones. On the diagonal a model is blind to feedback. Draw
    several models on one Axes by passing ``ax=display.ax_``.

    Parameters
    ----------
    curve : AversionCurve or Evaluation
        Of :func:`~posneg_rec.metrics.aversion_curve`, a curve; or of
        :func:`~posneg_rec.metrics.evaluate`, a point.
    metric : {"hit_rate", "ndcg", "mrr"}, default="hit_rate"
        What is averaged over the targets.
    name : str, default=None
        Label of the model.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The values.
    errorbar_ : matplotlib ErrorbarContainer or None
        The intervals in both directions.
    own_ : matplotlib Line2D or None
        The point of the aversion that the model has now.
    texts_ : list of matplotlib Annotation
        The aversions beside their points, as far as there is room.
    chance_line_ : matplotlib Line2D or None
        The diagonal.
    """

    def __init__(
        self,
        *,
        curve: AversionCurve | Evaluation,
        metric: MetricName = "hit_rate",
        name: str | None = None,
    ) -> None:
        self.curve = curve
        self.metric = metric
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        aversions: ArrayLike | None = None,
        *,
        metric: MetricName = "hit_rate",
        name: str | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Ask a fitted model under many aversions, and draw.

        Parameters
        ----------
        estimator : estimator with ``target_ranks``
            One without an aversion gives a point.
        X, y : interactions and feedback
            As in :func:`~posneg_rec.metrics.evaluate`; not those of the fit.
        aversions : array-like of float, default=None
            As in :func:`~posneg_rec.metrics.aversion_curve`.
        metric, name, ax
            As above; the name of the estimator's class by default.
        **options
            `k`, `targets`, `exclude_seen`, `n_bootstraps`, `confidence_level` and `random_state`
            of :func:`~posneg_rec.metrics.aversion_curve`.

        Returns
        -------
        display : TradeoffDisplay
        """
        name = type(_last_step(estimator)).__name__ if name is None else name
        return cls(
            curve=_curve_or_point(estimator, X, y, aversions, options), metric=metric, name=name
        ).plot(ax)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        intervals: bool = True,
        chance_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None makes a figure.
        name : str, default=None
            Instead of the display's.
        intervals : bool, default=True
            Draw the interval of each value.
        chance_line : bool, default=True
            Draw the diagonal, once on each Axes.
        **kwargs
            Options of matplotlib's ``plot`` for the values, such as `color` and `marker`.

        Returns
        -------
        self : TradeoffDisplay
        """
        check_option("metric", self.metric, tuple(GAINS))
        name = self.name if name is None else name
        (y, y_bounds), (x, x_bounds) = (
            _values(self.curve, f"{self.metric}_{feedback}") for feedback in ("liked", "disliked")
        )
        for values, feedback in ((x, "disliked"), (y, "liked")):
            if np.isnan(values).any():
                raise ValueError(
                    f"None of the targets is {feedback}: there is no such mean to draw."
                )
        self.ax_ = ax = _one_axes(self, ax)
        self.figure_ = ax.figure
        is_curve = isinstance(self.curve, AversionCurve)
        style: Any = {"marker": "o", "markersize": 4 if is_curve else 7, "zorder": 3} | kwargs
        self.line_: Any = ax.plot(x, y, label=name, **style)[0]
        colour = self.line_.get_color()
        self.errorbar_ = None
        if intervals:
            self.errorbar_ = ax.errorbar(
                x, y, xerr=x_bounds, yerr=y_bounds, fmt="none", ecolor=colour, alpha=0.3, zorder=2
            )
        _same_scale(ax)
        self.own_, self.texts_ = None, []
        if isinstance(self.curve, AversionCurve):
            own = np.flatnonzero(self.curve.aversions == self.curve.own_aversion)
            if len(own):
                (self.own_,) = ax.plot(
                    x[own], y[own], marker="o", markersize=9, color=colour, linestyle="", zorder=4
                )
            self.texts_ = _label_points(
                ax, x, y, [f"{aversion:g}" for aversion in self.curve.aversions], first=own
            )
        metric, k = _METRICS[self.metric], self.curve.k
        ax.set_xlabel(f"{metric}@{k} on disliked targets (lower is better)")
        ax.set_ylabel(f"{metric}@{k} on liked targets (higher is better)")
        self.chance_line_ = None
        if chance_line and "blind to feedback" not in ax.get_legend_handles_labels()[1]:
            self.chance_line_ = ax.axline(
                (0, 0), slope=1, ls=":", color=_muted(), label="blind to feedback", zorder=1
            )
        _tidy(ax)
        _legend(ax)
        return self


class AversionCurveDisplay:
    """Likes found and dislikes shown over the aversion, with intervals.

    Parameters
    ----------
    curve : AversionCurve
        Of :func:`~posneg_rec.metrics.aversion_curve`.
    metric : {"hit_rate", "ndcg", "mrr"}, default="hit_rate"
        What is averaged over the targets.
    chosen : float, default=None
        An aversion to mark, see :func:`~posneg_rec.metrics.choose_aversion`. None marks the model's
        own.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        By feedback, "liked" and "disliked".
    bands_ : dict of str to matplotlib PolyCollection
        The intervals.
    chosen_line_ : matplotlib Line2D or None
    """

    def __init__(
        self,
        *,
        curve: AversionCurve,
        metric: MetricName = "hit_rate",
        chosen: float | None = None,
    ) -> None:
        self.curve = curve
        self.metric = metric
        self.chosen = chosen

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        aversions: ArrayLike | None = None,
        *,
        metric: MetricName = "hit_rate",
        chosen: float | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Ask a fitted model under many aversions, and draw.

        Parameters
        ----------
        estimator, X, y, aversions, **options
            As in :func:`~posneg_rec.metrics.aversion_curve`.
        metric, chosen, ax
            As above.

        Returns
        -------
        display : AversionCurveDisplay
        """
        curve = aversion_curve(estimator, X, y, aversions, **options)
        return cls(curve=curve, metric=metric, chosen=chosen).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None makes a figure.

        Returns
        -------
        self : AversionCurveDisplay
        """
        check_option("metric", self.metric, tuple(GAINS))
        self.ax_ = ax = _one_axes(self, ax)
        self.figure_ = ax.figure
        aversions = self.curve.aversions
        self.lines_, self.bands_ = {}, {}
        for feedback, marker in (("liked", "o"), ("disliked", "s")):
            name = f"{self.metric}_{feedback}"
            (line,) = ax.plot(
                aversions,
                self.curve[name],
                marker=marker,
                markersize=4,
                label=f"{feedback} targets",
            )
            band = ax.fill_between(
                aversions, *self.curve.interval(name), color=line.get_color(), alpha=0.2, lw=0
            )
            self.lines_[feedback], self.bands_[feedback] = line, band
        ax.set_ylim(bottom=0)
        chosen = self.curve.own_aversion if self.chosen is None else self.chosen
        self.chosen_line_ = None
        if chosen is not None:
            word = "the model's own" if self.chosen is None else "chosen"
            self.chosen_line_ = ax.axvline(
                chosen, color=_muted(), linestyle=":", label=f"{word}, {chosen:g}"
            )
        ax.set_xlabel("dislike_aversion")
        ax.set_ylabel(f"{_METRICS[self.metric]}@{self.curve.k}")
        _tidy(ax)
        _legend(ax)
        return self


class LikeCalibrationDisplay:
    """Reliability of p(liked): how often what was said to be liked was liked, and of how many.

    Make one by :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    prob_true : ndarray of shape (n_bins,)
        Share of liked targets in each bin that holds any.
    prob_pred : ndarray of shape (n_bins,)
        Mean predicted probability there.
    counts : ndarray of shape (n_bins,), int
        Number of targets there.
    bins : ndarray of shape (n_bins, 2)
        Bounds of these bins.
    name : str, default=None
        Label of the model.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (2,)
        Of the reliability, and of the counts.
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
    errorbar_ : matplotlib ErrorbarContainer
        95 % Wilson intervals of the shares.
    reference_line_ : matplotlib Line2D or None
        The diagonal, on which a model is exact.
    bars_ : matplotlib BarContainer
        The counts, each as wide as its bin.

    Notes
    -----
    Like :class:`sklearn.calibration.CalibrationDisplay`, with what that leaves out: how many
    targets stand behind each point, and how certain it is.
    """

    def __init__(
        self,
        *,
        prob_true: NDArray[np.float64],
        prob_pred: NDArray[np.float64],
        counts: NDArray[np.int64],
        bins: NDArray[np.float64],
        name: str | None = None,
    ) -> None:
        self.prob_true = prob_true
        self.prob_pred = prob_pred
        self.counts = counts
        self.bins = bins
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        targets: Targets | NDArray[np.bool_] = "last",
        n_bins: int = 10,
        strategy: Literal["uniform", "quantile"] = "uniform",
        name: str | None = None,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Ask a fitted recommender whether what came next was liked, and draw.

        Parameters
        ----------
        estimator : estimator with ``liked_probabilities``
        X, y : interactions and feedback
            Not those of the fit.
        targets : {"last", "all"} or bool ndarray of shape (n_samples,), default="last"
            Rows to predict; neutral ones and items that the model does not know are left out.
        n_bins, strategy, name, ax
            As in :meth:`from_predictions`.

        Returns
        -------
        display : LikeCalibrationDisplay
        """
        if not hasattr(estimator, "liked_probabilities"):
            raise TypeError(
                f"{type(estimator).__name__} has no method liked_probabilities; what a model of "
                "another kind predicts takes from_predictions."
            )
        told, signs = estimator.liked_probabilities(X, y, targets=targets)
        kept = (signs != 0) & ~np.isnan(told)
        if not kept.any():
            raise ValueError(
                f"None of the {len(kept)} targets is liked or disliked and known to the model "
                f"({np.count_nonzero(signs == 0)} are neutral)."
            )
        name = type(_last_step(estimator)).__name__ if name is None else name
        return cls.from_predictions(
            signs[kept] == 1,
            told[kept],
            n_bins=n_bins,
            strategy=strategy,
            name=name,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_prob: ArrayLike,
        *,
        n_bins: int = 10,
        strategy: Literal["uniform", "quantile"] = "uniform",
        name: str | None = None,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw what was predicted against what came.

        Parameters
        ----------
        y_true : array-like of bool of shape (n_targets,)
            Whether each target was liked.
        y_prob : array-like of float of shape (n_targets,)
            Predicted probability to be liked.
        n_bins : int, default=10
            Number of bins.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of equal numbers.
        name : str, default=None
            Label of the model.
        ax
            As in :meth:`plot`.

        Returns
        -------
        display : LikeCalibrationDisplay

        Raises
        ------
        ValueError
            If lengths differ, there is no target, or a number is no probability.
        """
        check_option("strategy", strategy, ("uniform", "quantile"))
        if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
            raise ValueError(f"n_bins must be an int >= 1, got {n_bins!r:.50}.")
        liked = np.asarray(y_true)
        prob = np.asarray(y_prob, dtype=np.float64)
        if liked.ndim != 1 or liked.shape != prob.shape or not len(liked):
            raise ValueError(
                "y_true and y_prob need one entry for each of at least one target, got shapes "
                f"{liked.shape} and {prob.shape}."
            )
        if not np.isin(liked, (0, 1)).all():
            wrong = liked[~np.isin(liked, (0, 1))][0]
            raise ValueError(f"y_true says whether a target was liked, 0 or 1, got {wrong!r:.50}.")
        if not ((prob >= 0) & (prob <= 1)).all():
            wrong = prob[~((prob >= 0) & (prob <= 1))][0]
            raise ValueError(f"y_prob must hold probabilities in [0, 1], got {wrong!r:.50}.")
        edges = np.linspace(0, 1, int(n_bins) + 1)
        if strategy == "quantile":
            edges = np.unique(np.quantile(prob, edges))
            edges = edges if len(edges) > 1 else np.repeat(edges, 2)  # all are equal
        bins = np.searchsorted(edges[1:-1], prob)
        counts = np.bincount(bins)
        full = counts > 0
        return cls(
            prob_true=np.bincount(bins, liked)[full] / counts[full],
            prob_pred=np.bincount(bins, prob)[full] / counts[full],
            counts=counts[full],
            bins=np.column_stack([edges[:-1], edges[1:]])[: len(counts)][full],
            name=name,
        ).plot(ax)

    def plot(
        self,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            ``axes_`` of another display to draw on them as well, one Axes to divide, or None for
            a new figure.
        name : str, default=None
            Instead of the display's.
        ref_line : bool, default=True
            Draw the diagonal, once on each Axes.
        **kwargs
            Options of matplotlib's ``plot`` for the line.

        Returns
        -------
        self : LikeCalibrationDisplay
        """
        self.axes_ = _panels(self, ax, (3, 1), figsize=(5, 5.5))
        self.figure_ = self.axes_[0].figure
        reliability, histogram = self.axes_
        name = self.name if name is None else name
        label = "Perfectly calibrated"
        self.reference_line_ = None
        if ref_line and label not in reliability.get_legend_handles_labels()[1]:
            (self.reference_line_,) = reliability.plot(
                [0, 1], [0, 1], ":", color=_muted(), label=label
            )
        style = {"marker": "o", "markersize": 4} | kwargs
        (self.line_,) = reliability.plot(self.prob_pred, self.prob_true, label=name, **style)
        colour = self.line_.get_color()
        low, high = _wilson(self.prob_true, self.counts)
        self.errorbar_ = reliability.errorbar(
            self.prob_pred,
            self.prob_true,
            yerr=[np.maximum(self.prob_true - low, 0), np.maximum(high - self.prob_true, 0)],
            fmt="none",
            ecolor=colour,
            alpha=0.4,
        )
        self.bars_ = histogram.bar(
            self.bins[:, 0],
            self.counts,
            width=np.maximum(np.diff(self.bins)[:, 0], 0.002),
            align="edge",
            color=colour,
            edgecolor=_paper(histogram),
            alpha=0.6,
        )
        reliability.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share that was liked")
        histogram.set(xlabel="Mean predicted p(liked)", ylabel="Targets")
        histogram.set_ylim(bottom=0)
        for panel in self.axes_:
            _tidy(panel)
        reliability.legend(frameon=False, fontsize="small", loc="upper left")
        return self


class ItemMapDisplay:
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
        model = _last_step(estimator)
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
        self.ax_ = ax = _one_axes(self, ax, figsize=(6.5, 5))
        self.figure_ = ax.figure
        text = _text_colour()
        style = {"edgecolors": text, "linewidths": 0.3} | kwargs
        sizes = 10 + 90 * np.sqrt(self.counts / max(1, self.counts.max()))
        rated = self.counts > 0
        x, y = self.positions.T
        ax.scatter(x[~rated], y[~rated], s=10, color=_muted(), marker="x", linewidths=0.7)
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
                path_effects=_halo(ax),
            )
            for item, name in labels.items()
        ]
        for set_label, share in zip(
            (ax.set_xlabel, ax.set_ylabel), self.explained_variance_ratio, strict=True
        ):
            set_label(f"{share:.0%} of the variance")
        ax.set(xticks=[], yticks=[], aspect="equal")
        return self


class ExplanationDisplay:
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
        self.axes_ = _panels(
            self, ax, (1,) * n_items, across=True, figsize=(2.2 + 2.4 * n_items, height)
        )
        self.figure_ = self.axes_[0].figure
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
            bars = panel.barh(
                places, effects, color=colours, hatch=hatches, edgecolor=_paper(panel)
            )
            self.bars_.append(bars)
            panel.axvline(0, color=_text_colour(), linewidth=0.8)
            panel.set(xlim=(-most, most), ylim=(-0.6, len(places) - 0.4))
            panel.set_title(self._name(item, "item "), fontsize="medium")
            panel.set_yticks(places, ticks)
            panel.tick_params(axis="y", length=0, labelleft=panel is self.axes_[0])
            _tidy(panel)
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


# -- Numbers -----------------------------------------------------------------------------------


def _values(
    curve: AversionCurve | Evaluation, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a curve or a point, and how far their intervals reach down and up, (2, n)."""
    values = np.atleast_1d(curve[name])
    bounds = curve.interval(name) if isinstance(curve, AversionCurve) else curve.intervals[name]
    low, high = (np.atleast_1d(bound) for bound in bounds)
    # A percentile interval need not hold the value itself.
    return values, np.maximum([values - low, high - values], 0)


def _curve_or_point(
    model: Any, X: Any, y: Any, aversions: ArrayLike | None, options: Mapping[str, Any]
) -> AversionCurve | Evaluation:
    method = getattr(model, "target_ranks", None)
    has_aversion = method is None or "dislike_aversion" in inspect.signature(method).parameters
    if has_aversion or aversions is not None:
        return aversion_curve(model, X, y, aversions, **options)
    return evaluate(model, X, y, **options)


def _wilson(
    shares: NDArray[np.float64], counts: NDArray[np.int64], z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson score intervals of shares, 95 % for the usual z."""
    centre = (shares + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = (
        z * np.sqrt(shares * (1 - shares) / counts + z**2 / (4 * counts**2)) / (1 + z**2 / counts)
    )
    return centre - half, centre + half


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

    model = _last_step(estimator)
    coding = None if feedback is None else getattr(model, "feedback_coding_", None)
    _, signs = read_history(
        history,
        feedback,
        positive_threshold=getattr(model, "positive_threshold", None),
        feedback_coding=coding,
    )
    return signs


def _last_step(estimator: Any) -> Any:
    return estimator[-1] if hasattr(estimator, "steps") else estimator


# -- Axes --------------------------------------------------------------------------------------


def _pyplot(display: Any) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__} draws with matplotlib, which is not installed: "
            "pip install 'posneg-rec[plot]'."
        ) from error
    return plt


def _one_axes(display: Any, ax: Axes | None, **figure: Any) -> Any:
    plt = _pyplot(display)
    return plt.subplots(layout="constrained", **figure)[1] if ax is None else ax


def _panels(
    display: Any,
    ax: Axes | Sequence[Axes] | None,
    ratios: tuple[int, ...],
    *,
    across: bool = False,
    **figure: Any,
) -> NDArray[Any]:
    """Return axes one below the other (or beside), of a new figure, in one Axes, or as given."""
    plt = _pyplot(display)
    n = len(ratios)
    if ax is None:
        grid = {"width_ratios": ratios} if across else {"height_ratios": ratios}
        shape = (1, n) if across else (n, 1)
        share = {"sharey": True} if across else {"sharex": True}
        _, axes = plt.subplots(
            *shape, layout="constrained", squeeze=False, gridspec_kw=grid, **share, **figure
        )
        return np.asarray(axes).ravel()
    if isinstance(ax, plt.Axes):
        if n == 1:
            return np.array([ax])
        ax.set_axis_off()
        gap = 0.08
        sizes = (1 - gap * (n - 1)) * np.array(ratios) / sum(ratios)
        starts = np.cumsum(sizes + gap) - sizes - gap
        boxes = [
            (start, 0, size, 1) if across else (0, 1 - start - size, 1, size)
            for start, size in zip(starts, sizes, strict=True)
        ]
        panels = np.array([ax.inset_axes(box) for box in boxes])
        for panel in panels[1:]:
            (panel.sharey if across else panel.sharex)(panels[0])
        return panels
    axes = np.asarray(ax, dtype=object).ravel()
    if len(axes) != n or not all(isinstance(one, plt.Axes) for one in axes):
        raise ValueError(f"ax must be one Axes or {n} of them, got {len(axes)}: {ax!r:.50}.")
    return axes


def _text_colour() -> Any:
    import matplotlib as mpl

    return mpl.rcParams["text.color"]


def _muted() -> Any:
    """Return a grey that is seen on light and on dark ground."""
    return "0.5"


def _paper(ax: Axes) -> Any:
    return ax.get_facecolor()


def _halo(ax: Axes) -> list[Any]:
    """Set writing apart from what lies under it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground=_paper(ax))]


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=_muted(), alpha=0.2, linewidth=0.8)
    ax.set_axisbelow(True)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize="small")


def _has_negative(ax: Axes) -> bool:
    return bool(ax.dataLim.y0 < 0)


def _same_scale(ax: Axes) -> None:
    """Make both axes run from 0 to the same end, which holds all that was drawn."""
    end = 1.06 * max(ax.dataLim.x1, ax.dataLim.y1)
    ax.set(xlim=(0, end or 1), ylim=(0, end or 1), aspect="equal")


def _label_points(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: Sequence[str],
    first: NDArray[np.int64],
) -> list[Any]:
    """Write beside points what they are, the first and the ends before the others, if it fits."""
    order = list(dict.fromkeys([*first.tolist(), 0, len(x) - 1, *range(len(x))]))
    places = ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
    labelled: list[int] = []
    for point in order:
        if not np.isfinite(places[point]).all():
            continue
        distances = np.linalg.norm(places[labelled] - places[point], axis=1)
        if (distances >= _LABEL_DISTANCE).all():
            labelled.append(point)
    return [
        ax.annotate(
            labels[point],
            (x[point], y[point]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            fontweight="bold" if point in first else "normal",
            path_effects=_halo(ax),
            zorder=5,
        )
        for point in sorted(labelled)
    ]
