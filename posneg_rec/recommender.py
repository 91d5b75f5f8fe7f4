"""The estimator: a constructor that stores, and methods that hand on.

Modules that import torch are imported inside the methods that train; loading a model and answering
need NumPy alone.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from posneg_rec import persistence, serving
from posneg_rec._sklearn import Interval, StrOptions, check_sample_weight, fit_context
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    is_history,
    is_table,
    read_history,
    read_interactions,
    read_times,
    table_like,
)
from posneg_rec.metrics import TargetRanks, gain
from posneg_rec.model_selection import LastSeen, warn_if_future_leaks
from posneg_rec.sequences import Histories, gap_edges, gap_tags

if TYPE_CHECKING:
    from posneg_rec.training import EpochLog, Weights

__all__ = ["PNFREC", "ContrastiveSeqRecommender"]

#: The published method and its settings for MovieLens-1M, without ``positive_threshold`` (4).
PNFREC: dict[str, Any] = {
    "objective": "pnfrec",
    "embedding_dim": 231,
    "n_layers": 2,
    "n_heads": 1,
    "max_len": 50,
    "dropout": 0.1,
    "negative_weight": 0.45,
    "contrastive_weight": 0.25,
    "contrastive_similarity": "dot",
    "contrastive_negatives": "window",
    "windows": "recent",
    "ema_decay": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 500,
    "max_epochs": 100,
    "n_iter_no_change": 10,
}

# At most this many of a validation user's last events become validation targets: one is too noisy
# to stop on, and each costs an encoded history.
_MAX_VALIDATION_EVENTS = 10
# With so many scores to make it pays to make them on a CUDA device.
_MANY_SCORES, _MANY_SCORES_WITHOUT_TORCH = 2**20, 2**28

_COLUMN = [str, Integral, None]
_POSITIVE_INTEGER = [Interval(Integral, 1, None, closed="left")]
_NON_NEGATIVE = [Interval(Real, 0, None, closed="left")]
_POSITIVE = [Interval(Real, 0, None, closed="neither")]


class ContrastiveSeqRecommender(CallbackSupportMixin, BaseEstimator):
    """Recommend a user's next item from what the user liked and disliked.

    Causal transformers read a history; items have one vector each, which is input and output
    layer in one. Two objectives train them:

    - ``"joint"`` reads all events, each with its sign and the time since the one before, and
      maximises the likelihood of the next event: which item it is, and whether it is liked. Items
      rank by ``log p(next) + dislike_aversion log p(liked | next)``. With fewer than 2,000 users
      each event is also shown with the latest liked and the latest disliked item, which attention
      learns to find where there are many. Its transformer has gates
      (``sigmoid(G x)`` on what attention found, SwiGLU in the feed-forward net).
    - ``"pnfrec"`` is the method of [1]_: one transformer reads the liked, another the disliked
      items. Training minimises ``CE_p + a CE_n + b L_c``, next-item cross-entropy on both
      sequences and a contrast of the next liked item against the user's disliked ones; the
      positive transformer recommends. ``ContrastiveSeqRecommender(**PNFREC)`` has the settings
      published for MovieLens-1M.

    Parameters
    ----------
    objective : {"joint", "pnfrec"}, default="joint"
        What is learned. "joint" uses every event as a target and all of them as context.
    positive_threshold : float or (low, high), default=None
        Reads graded feedback. A number: from there on liked, below disliked. A pair: from `high`
        on liked, below `low` disliked, neutral in between. Not needed for bool, {0, 1} or
        {-1, 0, 1} feedback.
    dislike_aversion : float, default=5.0
        Weight of the probability to be liked in the ranking of "joint"; "pnfrec" has none. 0
        recommends what comes next, liked or not; more recommends less of what gets disliked, and
        beyond about 2 less of what gets liked too. Among validation users of MovieLens-1M five
        halves the hit rate on dislikes for a thirtieth of that on likes; NDCG@10 on likes minus
        that on dislikes is flat from five to eight. Needs no new fit: see `recommend`. It has no
        effect if no event of the fit was disliked.
    embedding_dim : int, default=128
        Size of the item vectors and of every hidden state. More than 128 gained little on
        MovieLens-1M and costs time in proportion.
    n_layers : int, default=2
        Blocks of each transformer, as in the paper.
    n_heads : int, default=2
        Attention heads; `embedding_dim` must divide by it. The paper has one.
    max_len : int, default=100
        Events that a transformer reads, the most recent ones: of all ("joint") or of one sign
        ("pnfrec", 50 in the paper).
    dropout : float, default=0.3
        Share of numbers dropped from the input, from what each block adds and, in "joint", from
        what the probability to be liked is read from.
    negative_weight : float, default=0.25
        ``a`` of "pnfrec", the weight of the cross-entropy on disliked sequences. 0 leaves the
        negative transformer out.
    contrastive_weight : float, default=0.1
        ``b`` of "pnfrec", the weight of the contrast. 0 skips it. With both weights 0 the model
        is SASRec on liked items.
    contrastive_similarity : {"dot", "cosine"}, default="dot"
        How the contrast compares. The paper writes cosine, its published numbers come from the
        dot product.
    contrastive_negatives : {"window", "past"}, default="window"
        The disliked items in the contrast: "window" takes the inputs of the negative transformer,
        which is what the published numbers come from (without the user's latest dislike, and
        with dislikes that came after the target). "past" is causal: the dislikes before the
        target.
    temperature : float, default=1.0
        Divides the similarity in the contrast. With "cosine" pass about 0.1: at 1 the term can
        hardly fall.
    windows : {"recent", "random"}, default="random"
        The part of a long history that an epoch trains on: its last ``max_len + 1`` events, as in
        the paper, or a new random run of that many, so that no event is lost.
    n_negatives : int, default=None
        None compares the next item with the whole catalogue, which is exact and, up to some ten
        thousand items, fast. A number draws so many items for each step instead, and moves only
        the vectors that a step touches: then a step costs the same whatever the catalogue holds.
        A few thousand do for a million items.
    duplicates : {"all", "last"}, default="all"
        Whether repeated events of one user and item all count or only the most recent.
    learning_rate : float, default=1e-3
        Step size of Adam, as in the paper.
    batch_size : int, default=64
        The most users per step; with fewer than 2,000 users less, for 32 steps an epoch. Small
        batches reach their best in fewer epochs, at the same time per epoch.
    ema_decay : float, default=0.998
        The weights that are kept and validated are an exponential moving average over the steps,
        of about ``1 / (1 - ema_decay)`` of them. 0 takes the last weights, as in the paper.
    max_epochs : int, default=50
        The most passes over the users.
    early_stopping : bool, default=True
        Keep the latest events of some users from training, and stop when their NDCG@10 has not
        improved for `n_iter_no_change` epochs; the best weights are kept. Without liked events
        among them all epochs run.
    validation_fraction : float, default=0.1
        Share of users whose latest events (half of them, at most ten) are kept for that: several
        an user, for one each would be too noisy to stop on.
    n_iter_no_change : int, default=5
        Patience of early stopping, in epochs. Averaged weights improve smoothly; without
        averaging take 10, as the paper does.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default a frame's columns are found by the names user or
        user_id, item or item_id, time or timestamp, and else taken from positions 0, 1 and 2.
    precision : {"auto", "bfloat16", "float32"}, default="auto"
        Number format of the matrix products in training; "auto" takes bfloat16 where the
        hardware multiplies it fast. Weights, sums and recommendations are float32 always.
    device : str, default="auto"
        Where to train: "auto" takes CUDA, then MPS, then the CPU; or any torch device. On CUDA
        many histories are also answered there, with scores that differ by rounding.
    random_state : int, RandomState instance or None, default=None
        An int makes a fit repeatable on one machine. The global random states are never touched.
    verbose : int, default=0
        1 draws a progress bar on stderr, a line per epoch.

    Attributes
    ----------
    items_ : ndarray of shape (n_items,)
        Raw item ids; the position is the item's code in the arrays below.
    weights_ : dict of str to float32 ndarray
        The parameters by name; ``weights_["item_embedding"]`` has shape (n_items, embedding_dim).
    item_likes_, item_dislikes_ : int64 ndarrays of shape (n_items,)
        How often each item was liked and disliked.
    history_ : dict of str to list
        Per epoch: epoch, loss and its terms (item_loss and feedback_loss, or positive_loss,
        negative_loss and contrastive_loss; nats), validation_score (NDCG@10, or None) and
        seconds.
    n_iter_ : int
        Epochs run.
    gap_edges_ : float64 ndarray of shape (9,)
        Bounds between the ten ranges of time between two events that "joint" tells apart, in
        seconds for datetimes, else in the unit of the time column.
    feedback_coding_ : {"liked", "binary", "signed", "graded"}
        How the feedback was read, so that 0 goes on meaning what it meant.
    n_features_in_ : int
        Number of columns of the table seen in fit.
    feature_names_in_ : ndarray of str
        Their names, if it was a frame with string names.

    See Also
    --------
    posneg_rec.SequenceBuilder : Sessions, duplicates and lengths, in a pipeline before this.
    posneg_rec.metrics.evaluate : Metrics on likes and dislikes with intervals.

    Notes
    -----
    The fitted state is NumPy arrays and numbers: no torch object, no device, no optimiser, and
    nobody's history. A model fitted on a GPU opens on any machine. Until it is persisted or
    copied, an estimator also knows when each user of its fit was last seen, to warn when `score`
    gets rows that lie before: a ``KFold`` over rows lets the future leak into training.

    References
    ----------
    .. [1] Ivanova, Frolov, Vasilev: "Benefiting from Negative yet Informative Feedback by
       Contrasting Opposing Sequential Patterns", RecSys 2025. arXiv:2508.14786.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> model = ContrastiveSeqRecommender(
    ...     embedding_dim=16, max_epochs=5, batch_size=32, random_state=0)
    >>> model.fit(world.interactions, world.feedback)
    ContrastiveSeqRecommender(batch_size=32, embedding_dim=16, max_epochs=5,
                              random_state=0)
    >>> items, scores = model.recommend([2, 72, 52, 44], k=3, feedback=[1, 1, 1, -1])
    >>> len(items)
    3
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "objective": [StrOptions({"joint", "pnfrec"})],
        "positive_threshold": [Real, tuple, list, None],
        "dislike_aversion": _NON_NEGATIVE,
        "embedding_dim": _POSITIVE_INTEGER,
        "n_layers": [Interval(Integral, 0, None, closed="left")],
        "n_heads": _POSITIVE_INTEGER,
        "max_len": _POSITIVE_INTEGER,
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "negative_weight": _NON_NEGATIVE,
        "contrastive_weight": _NON_NEGATIVE,
        "contrastive_similarity": [StrOptions({"dot", "cosine"})],
        "contrastive_negatives": [StrOptions({"window", "past"})],
        "temperature": _POSITIVE,
        "windows": [StrOptions({"recent", "random"})],
        "n_negatives": [Interval(Integral, 3, None, closed="left"), None],
        "duplicates": [StrOptions({"all", "last"})],
        "learning_rate": _POSITIVE,
        "batch_size": _POSITIVE_INTEGER,
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "max_epochs": _POSITIVE_INTEGER,
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": _POSITIVE_INTEGER,
        "user_column": _COLUMN,
        "item_column": _COLUMN,
        "time_column": _COLUMN,
        "precision": [StrOptions({"auto", "bfloat16", "float32"})],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # X and y by their names here, no metadata to route.
    __metadata_request__fit: ClassVar = {"interactions": UNUSED, "feedback": UNUSED}
    __metadata_request__partial_fit: ClassVar = {"interactions": UNUSED, "feedback": UNUSED}
    __metadata_request__score: ClassVar = {"interactions": UNUSED, "feedback": UNUSED}

    def __init__(
        self,
        *,
        objective: Literal["joint", "pnfrec"] = "joint",
        positive_threshold: float | tuple[float, float] | None = None,
        dislike_aversion: float = 5.0,
        embedding_dim: int = 128,
        n_layers: int = 2,
        n_heads: int = 2,
        max_len: int = 100,
        dropout: float = 0.3,
        negative_weight: float = 0.25,
        contrastive_weight: float = 0.1,
        contrastive_similarity: Literal["dot", "cosine"] = "dot",
        contrastive_negatives: Literal["window", "past"] = "window",
        temperature: float = 1.0,
        windows: Literal["recent", "random"] = "random",
        n_negatives: int | None = None,
        duplicates: Literal["all", "last"] = "all",
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        ema_decay: float = 0.998,
        max_epochs: int = 50,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
        precision: Literal["auto", "bfloat16", "float32"] = "auto",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.positive_threshold = positive_threshold
        self.dislike_aversion = dislike_aversion
        self.embedding_dim = embedding_dim
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.max_len = max_len
        self.dropout = dropout
        self.negative_weight = negative_weight
        self.contrastive_weight = contrastive_weight
        self.contrastive_similarity = contrastive_similarity
        self.contrastive_negatives = contrastive_negatives
        self.temperature = temperature
        self.windows = windows
        self.n_negatives = n_negatives
        self.duplicates = duplicates
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.ema_decay = ema_decay
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------------------------- fitting

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        interactions: Any,
        y: Any = None,
        *,
        feedback: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> ContrastiveSeqRecommender:
        """Learn from who met what, when, and how it was received.

        Parameters
        ----------
        interactions : frame, array of shape (n_rows, >= 2) or list of histories
            One row per event: user, item and, if there is one, time. Columns are found as
            :class:`ContrastiveSeqRecommender` describes. Rows of one user are put in time order;
            equal times keep the order of the rows, and without a time column the rows' order is
            the order in time. A list of histories has one list of item ids, oldest first, per
            user.
        y : array-like of shape (n_rows,), list of lists, or None
            The feedback, how each event was received: bool, {0, 1}, {-1, 1}, {-1, 0, 1} (0 is
            neutral) or, with `positive_threshold`, graded. None means that everything was liked.
        feedback : array-like, default=None
            The same by its own name; scikit-learn's tools say `y`.
        sample_weight : array-like of shape (n_rows,), default=None
            How much each event counts as a target, >= 0. It remains context for later events.

        Returns
        -------
        self : ContrastiveSeqRecommender

        Raises
        ------
        ValueError
            If the data or a parameter is malformed.
        FloatingPointError
            If the loss or a weight stops being finite.

        Warns
        -----
        UserWarning
            If no user has two events to learn an order from: then popular and well-liked items
            are recommended to everybody.

        Notes
        -----
        A fit that fails or is interrupted leaves the estimator as it was.
        """
        return self._fit(interactions, _one_of(y, feedback), sample_weight, resume=False)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        interactions: Any,
        y: Any = None,
        *,
        feedback: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> ContrastiveSeqRecommender:
        """Train one more epoch, on new events; items not met before join the catalogue.

        Known items keep their codes and continue from their vectors, new ones start from random
        vectors. Pass each user's recent history with the new events: the model holds nobody's
        history, and an order can only be learned from events that are passed together. The first
        call on an unfitted estimator starts a model.

        Parameters
        ----------
        interactions, y, feedback, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : ContrastiveSeqRecommender

        Notes
        -----
        The optimiser starts anew, and no validation part is held out. A call that fails leaves
        the estimator as it was.
        """
        return self._fit(interactions, _one_of(y, feedback), sample_weight, resume=True)

    def _fit(
        self, interactions: Any, feedback: Any, sample_weight: ArrayLike | None, *, resume: bool
    ) -> ContrastiveSeqRecommender:
        max_epochs = 1 if resume else self.max_epochs
        context = self._init_callback_context(max_subtasks=max_epochs)
        passed = {
            "X": interactions,
            "y": feedback,
            "metadata": {} if sample_weight is None else {"sample_weight": sample_weight},
        }
        context.call_on_fit_task_begin(estimator=self, **passed)
        state = self._fitted_state(
            interactions,
            feedback,
            sample_weight,
            max_epochs=max_epochs,
            resume=resume and self.__sklearn_is_fitted__(),
            context=context,
            passed=passed,
        )
        # One assignment: whatever ends a fit early, the estimator is never half-way.
        unfitted = {k: v for k, v in vars(self).items() if k.startswith("_") or not k.endswith("_")}
        self.__dict__ = unfitted | state
        context.call_on_fit_task_end(estimator=self, **passed, reconstruction_attributes={})
        return self

    def _fitted_state(
        self,
        interactions: Any,
        feedback: Any,
        sample_weight: ArrayLike | None,
        *,
        max_epochs: int,
        resume: bool,
        context: Any,
        passed: dict[str, Any],
    ) -> dict[str, Any]:
        """Make everything that a fit leaves behind, without touching the estimator."""
        from posneg_rec.training import (
            JointObjective,
            Objective,
            PNFRecObjective,
            Settings,
            train,
        )

        self._check_sizes()
        if resume:
            self._check_columns(interactions)
        events = self._read(interactions, feedback, remembered=resume)
        weights = self._target_weights(sample_weight, events)
        state = self._column_names(interactions)
        vocabulary = (
            ItemVocabulary(self.items_).extended(events.item_ids)
            if resume
            else ItemVocabulary.from_ids(events.item_ids)
        )
        histories = build_histories(events, vocabulary, duplicates=self.duplicates)
        counts = {
            name: np.bincount(histories.items[histories.signs == sign], minlength=len(vocabulary))
            for name, sign in (("item_likes_", 1), ("item_dislikes_", -1))
        }
        rng = _generator(self.random_state)
        initial = None
        if resume:
            for name, count in counts.items():
                count[: len(self.items_)] += getattr(self, name)
            initial = self._grown_weights(len(vocabulary), rng)
        state |= counts | {
            "items_": vocabulary.items,
            "feedback_coding_": events.feedback_coding,
            "gap_edges_": self.gap_edges_ if resume else gap_edges(histories.gaps()),
            "_trained_until": LastSeen.of(histories, events.time_unit),
        }

        def fitted(current: Weights) -> dict[str, Any]:  # as if the fit had stopped here
            return state | {"weights_": current, "history_": {}, "n_iter_": 1}

        training, validation = histories, None
        if self.early_stopping and not resume:
            training, validation = self._hold_out(histories, rng)
        names = {field.name for field in fields(Settings)}
        settings = Settings(
            **{name: value for name, value in self.get_params().items() if name in names}
            | {"max_epochs": max_epochs}
        )
        objective: Objective
        if self.objective == "joint":
            tags = _gap_tags(state, training)
            shows_latest = "latest.weight" in self.weights_ if resume else None
            objective = JointObjective(
                training, settings, weights, gap_tags=tags, shows_latest=shows_latest
            )
        else:
            objective = PNFRecObjective(training, settings, weights)

        def validate(current: Weights) -> float:
            assert validation is not None
            ranks = self._ranks(fitted(current), *validation)
            return float(gain(ranks, "ndcg", 10).mean())

        def on_epoch(log: EpochLog, current: Callable[[], Weights]) -> bool:
            if self.verbose:
                _show_progress(log, max_epochs)
            task = context.subcontext(task_name="epoch")
            task.call_on_fit_task_begin(estimator=self, **passed)
            return bool(
                task.call_on_fit_task_end(
                    estimator=self,
                    **passed,
                    reconstruction_attributes=lambda: fitted(current()),
                )
            )

        trained, log = train(
            objective,
            len(vocabulary),
            settings,
            rng=rng,
            initial_weights=initial,
            validate=None if validation is None else validate,
            on_epoch=on_epoch,
        )
        if not log:
            warnings.warn(
                f"No user has two events to learn an order from ({events.n_rows} rows, "
                f"{len(histories.users)} users), so popular items will be recommended. Pass more "
                "of each user's history, or check the feedback.",
                UserWarning,
                stacklevel=5,
            )
        elif feedback is not None and not state["item_dislikes_"].any():
            warnings.warn(
                f"None of the {events.n_rows} events is disliked, so only what comes next is "
                "learned, as SASRec does, and dislike_aversion has no effect. If some are meant to "
                f"be disliked, check the feedback and positive_threshold "
                f"(now {self.positive_threshold!r}).",
                UserWarning,
                stacklevel=5,
            )
        columns: dict[str, list[Any]] = {
            "epoch": [epoch.epoch for epoch in log],
            **{name: [epoch.losses[name] for epoch in log] for name in ("loss", *objective.terms)},
            "validation_score": [epoch.validation_score for epoch in log],
            "seconds": [epoch.seconds for epoch in log],
        }
        if resume:
            columns = {name: [*self.history_[name], *values] for name, values in columns.items()}
            columns["epoch"] = list(range(1, len(columns["epoch"]) + 1))
        return state | {
            "weights_": trained,
            "history_": columns,
            "n_iter_": len(columns["epoch"]),
        }

    def _check_sizes(self) -> None:
        if self.embedding_dim % self.n_heads:
            raise ValueError(
                f"embedding_dim must divide by n_heads, got embedding_dim={self.embedding_dim} and "
                f"n_heads={self.n_heads}."
            )

    def _check_columns(self, interactions: Any) -> None:
        """Check that the columns are those of the fit, in number and name."""
        if is_table(interactions):
            validate_data(self, interactions, reset=False, skip_check_array=True)

    def _read(self, interactions: Any, feedback: Any, *, remembered: bool) -> Interactions:
        return read_interactions(
            interactions,
            feedback,
            positive_threshold=self.positive_threshold,
            user_column=self.user_column,
            item_column=self.item_column,
            time_column=self.time_column,
            feedback_coding=self.feedback_coding_ if remembered else None,
        )

    def _target_weights(
        self, sample_weight: ArrayLike | None, events: Interactions
    ) -> NDArray[np.float32] | None:
        if sample_weight is None:
            return None
        rows = np.broadcast_to(np.float32(0), (events.n_rows, 1))
        weights = check_sample_weight(
            sample_weight, rows, dtype=np.float32, ensure_non_negative=True
        )
        return np.asarray(weights, dtype=np.float32)

    def _column_names(self, interactions: Any) -> dict[str, Any]:
        """Find ``n_features_in_`` and ``feature_names_in_`` as scikit-learn does."""
        if not is_table(interactions):
            return {}
        probe = BaseEstimator()
        validate_data(probe, interactions, skip_check_array=True)
        return {name: value for name, value in vars(probe).items() if name.endswith("_in_")}

    def _grown_weights(self, n_items: int, rng: np.random.Generator) -> Weights:
        """Give the items that joined random vectors beside the fitted ones."""
        table = self.weights_["item_embedding"]
        n_joined = n_items - len(table)
        joined = rng.normal(0.0, 0.02, size=(n_joined, table.shape[1])).astype(np.float32)
        grown = {"item_embedding": np.concatenate([table, joined])}
        if "item_taste" in self.weights_:
            grown["item_taste"] = np.pad(self.weights_["item_taste"], (0, n_joined))
        return self.weights_ | grown

    def _hold_out(
        self, histories: Histories, rng: np.random.Generator
    ) -> tuple[Histories, tuple[Histories, NDArray[np.int64], NDArray[np.int64]] | None]:
        """Keep the last events of some users from training, to validate on.

        Of a share of users the latest half, at most ten events, becomes targets; each is ranked
        by exactly what :meth:`recommend` would show at that moment.
        """
        n_users = len(histories.users)
        chosen = rng.permutation(n_users)[: int(np.ceil(self.validation_fraction * n_users))]
        n_held = np.zeros(n_users, dtype=np.int64)
        n_held[chosen] = np.minimum(histories.lengths[chosen] // 2, _MAX_VALIDATION_EVENTS)
        user = np.repeat(np.arange(n_users), histories.lengths)
        held = np.arange(len(user)) >= (histories.offsets[1:] - n_held)[user]
        targets = np.flatnonzero(held & (histories.signs == 1))
        if len(targets) == 0:
            return histories, None
        return histories.select(~held), (histories, user[targets], targets)

    # ------------------------------------------------------------------------------ recommending

    def recommend(
        self,
        interactions: Any,
        k: int = 10,
        *,
        feedback: Any = None,
        times: Any = None,
        exclude_seen: bool = True,
        allowed_items: ArrayLike | None = None,
        denied_items: ArrayLike | None = None,
        dislike_aversion: float | None = None,
    ) -> Any:
        """Recommend the k items that each history is most likely to continue with.

        Parameters
        ----------
        interactions : one history, or a table or list of histories
            One history is a flat list or 1-D array of item ids, oldest first. A table (as in
            :meth:`fit`) or a list of histories asks for many users at once.
        k : int, default=10
            How many items.
        feedback : array-like, default=None
            As in :meth:`fit`, of the same length; None means that everything was liked.
        times : array-like, default=None
            When each event of one history happened, in the unit of the fit's time column: "joint"
            reads the time between events. None is understood, and a little less exact.
        exclude_seen : bool, default=True
            Leave out what is in the history, liked or not.
        allowed_items, denied_items : array-like of item ids, default=None
            Recommend only from, or never from, these items.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call.

        Returns
        -------
        items, scores : arrays of shape (k,)
            For one history: raw ids, best first, and their scores: ``log p(next) +
            dislike_aversion log p(liked | next)``, of "pnfrec" logits, which compare within one
            history alone.
        table : frame, or structured array
            For many: columns user, item, score and rank (1 = best), of the kind of frame that was
            passed (a NumPy structured array for arrays and lists), users in sorted order.

        Warns
        -----
        UserWarning
            If fewer than k candidates are left; then the answer is shorter.

        Notes
        -----
        Items that the model does not know are ignored (:meth:`unknown_items` names them). A
        history without a known item ("pnfrec": a known liked item) gets the popular and
        well-liked items. Equal scores rank by item code, the position in ``items_``.
        """
        check_is_fitted(self)
        k = _check_k(k)
        allowed = self._candidates(allowed_items, denied_items)
        single = is_history(interactions)
        histories = self._histories(interactions, feedback, times)
        users = np.arange(len(histories.users))
        scorer = self._scorer(
            self.__dict__,
            histories,
            users,
            histories.offsets[1:],
            exclude_seen=exclude_seen,
            allowed=allowed,
            dislike_aversion=dislike_aversion,
        )
        codes, scores = scorer.top_k(k)
        found = codes >= 0
        n_found = found.sum(1)
        short = n_found < k
        if short.any():
            warnings.warn(
                f"{short.sum()} of {len(users)} histories have fewer than k={k} candidates "
                f"(the fewest: {n_found.min()}); their answers are shorter. Lower k, allow "
                "more items, or pass exclude_seen=False.",
                UserWarning,
                stacklevel=2,
            )
        items = self.items_[codes[found]]
        if single:
            return items, scores[found]
        rank = np.broadcast_to(np.arange(1, codes.shape[1] + 1), codes.shape)
        columns = {
            "user": np.repeat(histories.users, n_found),
            "item": items,
            "score": scores[found],
            "rank": rank[found],
        }
        return table_like(interactions, columns)

    def score_items(
        self,
        history: Any,
        items: ArrayLike | None = None,
        *,
        feedback: Any = None,
        times: Any = None,
    ) -> NDArray[np.float32]:
        """Score given items after one history, whether seen or not.

        Parameters
        ----------
        history : list or 1-D array of item ids
            Oldest first.
        items : array-like of shape (n,), default=None
            Item ids; None means the whole catalogue in the order of ``items_``.
        feedback : array-like, default=None
            Of each event of the history; None means that everything was liked.
        times : array-like, default=None
            As in :meth:`recommend`.

        Returns
        -------
        float32 array of shape (n,)
            NaN for items that the model does not know.
        """
        check_is_fitted(self)
        histories = self._histories(_one_history(history), feedback, times)
        scores = self._scorer(
            self.__dict__, histories, np.array([0]), histories.offsets[1:], exclude_seen=False
        ).row(0)
        if items is None:
            return scores
        codes = self._vocabulary().encode(items)
        return np.where(codes < 0, np.float32(np.nan), scores[codes])

    def similar_items(self, item: Any, k: int = 10) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Find the k items whose vectors point most nearly in an item's direction.

        Parameters
        ----------
        item : item id
        k : int, default=10

        Returns
        -------
        items, similarities : arrays of shape (min(k, n_items - 1),)
            Raw ids and cosines in [-1, 1], best first; the item itself is left out.

        Raises
        ------
        ValueError
            If the model does not know the item.
        """
        check_is_fitted(self)
        k = _check_k(k)
        (code,) = self._vocabulary().encode(_one_history([item]))
        if code < 0:
            raise ValueError(
                f"Item {item!r} is not among the {len(self.items_)} items of the fit "
                f"(for example {self.items_[0]!r}); pass an id of items_."
            )
        table = self.weights_["item_embedding"]
        norms = np.linalg.norm(table, axis=1)
        cosines = table @ table[code] / np.maximum(norms * norms[code], np.finfo(np.float32).tiny)
        cosines[code] = -np.inf
        codes, best = serving.top_k(cosines[None], min(k, len(table) - 1))
        return self.items_[codes[0]], best[0]

    def unknown_items(self, interactions: Any) -> NDArray[Any]:
        """Name the items of a history, table or list of histories that the model does not know.

        Parameters
        ----------
        interactions : history, table or list of histories
            As in :meth:`recommend`.

        Returns
        -------
        array of shape (n_unknown,)
            Raw ids in sorted order.
        """
        check_is_fitted(self)
        if is_history(interactions):
            items, _ = read_history(interactions)
        else:
            items = self._read(interactions, None, remembered=False).items
        distinct = ItemVocabulary.from_ids(items).items
        return distinct[self._vocabulary().encode(distinct) < 0]

    # ----------------------------------------------------------------------------------- scoring

    def score(self, interactions: Any, y: Any = None, *, feedback: Any = None) -> float:
        """Return NDCG@10 on liked minus NDCG@10 on disliked last events; greater is better.

        Each user's last row is the target, the rows before it are the history. A model that
        ranks high what users go on to like and low what they go on to dislike scores high; 0 is
        indifference. Over nothing (no user's last event was disliked, say) a mean is 0.

        Parameters
        ----------
        interactions, y, feedback
            As in :meth:`fit`.

        Returns
        -------
        float in [-1, 1]

        Warns
        -----
        FutureLeakWarning
            If targets lie before rows of the same user that this object was trained on.
        """
        return self.target_ranks(interactions, _one_of(y, feedback)).mean("ndcg", k=10)

    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool = True,
    ) -> TargetRanks:
        """Rank what did happen next among the whole catalogue.

        Parameters
        ----------
        interactions, feedback
            As in :meth:`fit`.
        targets : {"last", "all"} or bool array of shape (n_rows,), default="last"
            The rows to predict from their user's earlier rows: each user's last row, every row
            with an earlier one, or those that the mask names.
        exclude_seen : bool, default=True
            Whether items of the history are no candidates, as in :meth:`recommend`.

        Returns
        -------
        TargetRanks
            In the order of the rows. Rank 1 is the top; a target that would never be recommended
            (unknown, or seen before) ranks after all items.
        """
        check_is_fitted(self)
        self._check_columns(interactions)
        events = self._read(interactions, feedback, remembered=True)
        histories = build_histories(events, self._vocabulary())
        user = np.repeat(np.arange(len(histories.users)), histories.lengths)
        n_before = np.arange(len(user)) - histories.offsets[:-1][user]
        if isinstance(targets, str) and targets == "last":
            chosen = n_before + 1 == histories.lengths[user]
        elif isinstance(targets, str) and targets == "all":
            chosen = n_before > 0
        else:
            mask = np.asarray(targets)
            if mask.shape != (events.n_rows,) or mask.dtype != bool:
                raise ValueError(
                    "targets must be 'last', 'all' or a bool array with one entry per row "
                    f"({events.n_rows}), got {targets if mask.ndim == 0 else mask.shape!r} of "
                    f"dtype {mask.dtype}."
                )
            chosen = mask[histories.rows]
        stops = np.flatnonzero(chosen)
        stops = stops[np.argsort(histories.rows[stops], kind="stable")]
        if isinstance(targets, str) and targets == "last":
            # What was trained on is gone from a loaded model.
            trained = self.__dict__.get("_trained_until")
            warn_if_future_leaks(trained, LastSeen.of(histories, events.time_unit))
        ranks = self._ranks(self.__dict__, histories, user[stops], stops, exclude_seen=exclude_seen)
        return TargetRanks(
            users=histories.users[user[stops]],
            rows=histories.rows[stops],
            signs=histories.signs[stops],
            ranks=ranks,
            n_items=len(self.items_),
        )

    # ------------------------------------------------------------------------------ shared parts

    def _vocabulary(self) -> ItemVocabulary:
        # Kept between calls: its look-up tables take far longer to build than an answer.
        kept: ItemVocabulary | None = vars(self).get("_kept_vocabulary")
        if kept is None or kept.items is not self.items_:
            kept = self._kept_vocabulary = ItemVocabulary(self.items_)
        return kept

    def _model(self, weights: Weights) -> serving.Model:
        # Kept like the vocabulary: to make it takes half as long as to answer one history.
        kept: serving.Model | None = vars(self).get("_kept_model")
        if kept is None or kept.weights is not weights or kept.n_heads != self.n_heads:
            kept = serving.Model(weights, self.n_heads)
            if weights is vars(self).get("weights_"):  # none that a fit is still trying
                self._kept_model = kept
        return kept

    def _histories(self, interactions: Any, feedback: Any, times: Any = None) -> Histories:
        """Read one history, a table or a list of histories as events of codes."""
        if not is_history(interactions):
            if times is not None:
                raise ValueError(
                    "times goes with one history; a table has them in its time column."
                )
            events = self._read(interactions, feedback, remembered=feedback is not None)
            return build_histories(events, self._vocabulary())
        items, signs = read_history(
            interactions,
            feedback,
            positive_threshold=self.positive_threshold,
            feedback_coding=self.feedback_coding_ if feedback is not None else None,
        )
        when, unit = (None, None) if times is None else read_times(times, len(items))
        return Histories(
            users=np.array([0]),
            items=self._vocabulary().encode(items),
            signs=signs,
            times=when,
            rows=np.arange(len(items)),
            offsets=np.array([0, len(items)]),
            time_unit=unit,
        )

    def _scorer(
        self,
        state: dict[str, Any],
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        exclude_seen: bool,
        allowed: NDArray[np.bool_] | None = None,
        dislike_aversion: float | None = None,
    ) -> serving.Scorer:
        aversion = self.dislike_aversion if dislike_aversion is None else dislike_aversion
        if not (isinstance(aversion, Real) and aversion >= 0):
            raise ValueError(f"dislike_aversion must be a number >= 0, got {aversion!r}.")
        if not state["item_dislikes_"].any():
            aversion = 0.0  # who never met a dislike cannot foretell one
        # Weights that no epoch has trained say nothing: every history falls back.
        max_len = self.max_len if state["n_iter_"] else 0
        likes_only = self.objective == "pnfrec"
        queries = serving.Queries.before(
            histories,
            users,
            stops,
            n_items=len(state["items_"]),
            max_len=max_len,
            likes_only=likes_only,
            gap_tags=None if likes_only else _gap_tags(state, histories),
        )
        model = self._model(state["weights_"])
        return self._scorer_class(model, len(users))(
            model,
            state["item_likes_"],
            state["item_dislikes_"],
            queries,
            aversion=float(aversion),
            exclude_seen=exclude_seen,
            allowed=allowed,
        )

    def _scorer_class(self, model: serving.Model, n_queries: int) -> Callable[..., serving.Scorer]:
        """Choose where to score: on a CUDA device if that pays off."""
        device = "cuda" if self.device == "auto" else self.device
        if not device.startswith("cuda"):
            return serving.Scorer
        # Where nothing has loaded torch yet, loading it takes longer than many scores.
        least = _MANY_SCORES if "torch" in sys.modules else _MANY_SCORES_WITHOUT_TORCH
        if n_queries * len(model.items) < least:
            return serving.Scorer
        from posneg_rec.accelerated import AcceleratedScorer, can_accelerate

        if not can_accelerate(model):
            return serving.Scorer
        return functools.partial(AcceleratedScorer, device=device)

    def _ranks(
        self,
        state: dict[str, Any],
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        exclude_seen: bool = True,
    ) -> NDArray[np.int64]:
        """Rank the item of each event of `stops` after its user's earlier events."""
        scorer = self._scorer(state, histories, users, stops, exclude_seen=exclude_seen)
        return scorer.ranks(histories.items[stops])

    def _candidates(
        self, allowed_items: ArrayLike | None, denied_items: ArrayLike | None
    ) -> NDArray[np.bool_] | None:
        if allowed_items is None and denied_items is None:
            return None
        vocabulary = self._vocabulary()
        mask = np.full(len(vocabulary), allowed_items is None)
        for items, value in ((allowed_items, True), (denied_items, False)):
            if items is not None:
                codes = vocabulary.encode(items)
                mask[codes[codes >= 0]] = value
        return mask

    # --------------------------------------------------------------------------------- persisting

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a file without pickle, readable by any later version.

        Parameters
        ----------
        path : path-like
            ``model.posneg``, say. An existing file is replaced in one step.

        Raises
        ------
        TypeError
            If item ids or parameters are of a kind that needs pickle; use ``joblib.dump`` then.
        """
        check_is_fitted(self)
        state = {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}
        persistence.write_model(path, self.get_params(), state)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ContrastiveSeqRecommender:
        """Read a model that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        ContrastiveSeqRecommender
        """
        params, state = persistence.read_model(path)
        model = cls(**params)
        model.__dict__.update(state)
        return model

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there are weights to recommend with."""
        return hasattr(self, "weights_")

    def __sklearn_tags__(self) -> Tags:
        """Say that ids may be strings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Leave out look-up tables, users and, once fitted, set callbacks.

        Callbacks belong to a fit, not to a model; an unfitted estimator takes them along to the
        worker process that will fit it.
        """
        state: dict[str, Any] = super().__getstate__()
        dropped = {"_kept_vocabulary", "_kept_model", "_trained_until"}
        if "weights_" in state:
            dropped.add("_skl_callbacks")
        return {name: value for name, value in state.items() if name not in dropped}


def _generator(random_state: int | np.random.RandomState | None) -> np.random.Generator:
    """Make a generator of our own: None draws from the system, never from a global state."""
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31))
    return np.random.default_rng(random_state)


def _gap_tags(state: dict[str, Any], histories: Histories) -> NDArray[np.int64] | None:
    """Classify the time before each event, where times are known."""
    gaps = histories.gaps()
    # Models of the first file format read no times.
    if gaps is None or "gap_edges_" not in state:
        return None
    return gap_tags(gaps, state["gap_edges_"])


def _one_of(y: Any, feedback: Any) -> Any:
    if y is not None and feedback is not None:
        raise ValueError("y and feedback are two names of one argument; pass one of them.")
    return feedback if y is None else y


def _check_k(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"k must be an int >= 1, got {k!r}.")
    return int(k)


def _one_history(history: Any) -> Any:
    if not is_history(history):
        raise ValueError(
            "Expected one history, a flat list or 1-D array of item ids, got "
            f"{type(history).__name__}; recommend takes tables and lists of histories."
        )
    return history


def _show_progress(log: EpochLog, max_epochs: int) -> None:
    width = 20
    bar = ("#" * round(width * log.epoch / max_epochs)).ljust(width, ".")
    score = (
        "" if log.validation_score is None else f"  validation NDCG@10 {log.validation_score:.4f}"
    )
    print(
        f"epoch {log.epoch:>{len(str(max_epochs))}}/{max_epochs} [{bar}]"
        f"  loss {log.losses['loss']:.4f}{score}  {log.seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )
