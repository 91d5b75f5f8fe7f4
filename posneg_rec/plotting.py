"""Pictures of a fit, of a model and of what it answers, in the style of scikit-learn's displays.

A display holds the numbers, ``plot`` draws them, on axes of the caller's or new ones, and keeps
what it drew. Colours, fonts and backgrounds are those of the matplotlib style in use, dark ones as
well. Those of a fit and of metrics are here, those of items in :mod:`item_displays`.
matplotlib is imported when something is drawn: ``pip install 'posneg-rec[plot]'`` brings it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec.display import (
    Display,
    has_negative,
    label_points,
    legend,
    muted,
    paper,
    same_scale,
    tidy,
)
from posneg_rec.evaluation import AversionCurve, Evaluation, aversion_curve, evaluate
from posneg_rec.frames import as_numbers
from posneg_rec.item_displays import ExplanationDisplay, ItemMapDisplay
from posneg_rec.ranks import GAINS, MetricName, Targets, check_option, last_step

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


class TrainingDisplay(Display):
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
        return cls(history=last_step(estimator).history_, name=name).plot(ax)

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
        axes = self._on_panels(ax, (3, 2) if has_scores else (1,))
        name = self.name if name is None else name
        prefix = "" if name is None else f"{name}: "
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
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]) if has_negative(axes[0]) else 0)
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
            tidy(panel)
            panel.legend(frameon=False, fontsize="small")
        return self


class TradeoffDisplay(Display):
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
        name = type(last_step(estimator)).__name__ if name is None else name
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
        ax = self._on_one(ax)
        is_curve = isinstance(self.curve, AversionCurve)
        style: Any = {"marker": "o", "markersize": 4 if is_curve else 7, "zorder": 3} | kwargs
        self.line_: Any = ax.plot(x, y, label=name, **style)[0]
        colour = self.line_.get_color()
        self.errorbar_ = None
        if intervals:
            self.errorbar_ = ax.errorbar(
                x, y, xerr=x_bounds, yerr=y_bounds, fmt="none", ecolor=colour, alpha=0.3, zorder=2
            )
        same_scale(ax)
        self.own_, self.texts_ = None, []
        if isinstance(self.curve, AversionCurve):
            own = np.flatnonzero(self.curve.aversions == self.curve.own_aversion)
            if len(own):
                (self.own_,) = ax.plot(
                    x[own], y[own], marker="o", markersize=9, color=colour, linestyle="", zorder=4
                )
            self.texts_ = label_points(
                ax, x, y, [f"{aversion:g}" for aversion in self.curve.aversions], first=own
            )
        metric, k = _METRICS[self.metric], self.curve.k
        ax.set_xlabel(f"{metric}@{k} on disliked targets (lower is better)")
        ax.set_ylabel(f"{metric}@{k} on liked targets (higher is better)")
        self.chance_line_ = None
        if chance_line and "blind to feedback" not in ax.get_legend_handles_labels()[1]:
            self.chance_line_ = ax.axline(
                (0, 0), slope=1, ls=":", color=muted(), label="blind to feedback", zorder=1
            )
        tidy(ax)
        legend(ax)
        return self


class AversionCurveDisplay(Display):
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
        ax = self._on_one(ax)
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
                chosen, color=muted(), linestyle=":", label=f"{word}, {chosen:g}"
            )
        ax.set_xlabel("dislike_aversion")
        ax.set_ylabel(f"{_METRICS[self.metric]}@{self.curve.k}")
        tidy(ax)
        legend(ax)
        return self


class LikeCalibrationDisplay(Display):
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
        name = type(last_step(estimator)).__name__ if name is None else name
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
        TypeError
            If a value is no number; text is none.
        """
        check_option("strategy", strategy, ("uniform", "quantile"))
        if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
            raise ValueError(f"n_bins must be an int >= 1, got {n_bins!r:.50}.")
        liked, prob = as_numbers(y_true, "y_true"), as_numbers(y_prob, "y_prob")
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
        reliability, histogram = self._on_panels(ax, (3, 1), figsize=(5, 5.5))
        name = self.name if name is None else name
        label = "Perfectly calibrated"
        self.reference_line_ = None
        if ref_line and label not in reliability.get_legend_handles_labels()[1]:
            (self.reference_line_,) = reliability.plot(
                [0, 1], [0, 1], ":", color=muted(), label=label
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
            edgecolor=paper(histogram),
            alpha=0.6,
        )
        reliability.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share that was liked")
        histogram.set(xlabel="Mean predicted p(liked)", ylabel="Targets")
        histogram.set_ylim(bottom=0)
        for panel in self.axes_:
            tidy(panel)
        reliability.legend(frameon=False, fontsize="small", loc="upper left")
        return self


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
