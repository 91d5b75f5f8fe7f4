"""The estimator: a constructor that stores, and methods that hand on.

Modules that import torch are imported inside the methods that train; loading a model and answering
need NumPy alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import CallbackSupportMixin

from posneg_rec import persistence
from posneg_rec._sklearn import Interval, StrOptions, fit_context
from posneg_rec.answering import EncoderMixin
from posneg_rec.base import NOT_ROUTED, BaseRecommender, check_columns_in, columns_in
from posneg_rec.checkpoint import Checkpoint
from posneg_rec.fitted import FittedModel
from posneg_rec.fitting import fit_model
from posneg_rec.frames import as_frame, is_store
from posneg_rec.interactions import one_of
from posneg_rec.parameters import PARAMETERS, Allowed, Range, refuse_switch
from posneg_rec.progress import EpochProgress
from posneg_rec.ranks import TargetRanks

if TYPE_CHECKING:
    from posneg_rec.training import EpochLog

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


def _constraint(allowed: Allowed) -> Any:
    """Turn a kind of value into a constraint of scikit-learn."""
    if isinstance(allowed, Range):
        return Interval(allowed.kind, allowed.low, allowed.high, closed=allowed.closed)
    return StrOptions(set(allowed)) if isinstance(allowed, frozenset) else allowed


class ContrastiveSeqRecommender(CallbackSupportMixin, EncoderMixin, BaseRecommender):
    """Recommend a user's next item from what the user liked and disliked.

    Causal transformers read a history; items have one vector each, which is input and output
    layer in one. Two objectives train them:

    - ``"joint"`` reads all events, each with its sign and the time since the one before, and
      maximises the likelihood of the next event: which item it is, and whether it is liked. Items
      rank by the likes to be expected of them less the cost of the dislikes,
      ``p(next) (p(liked) - cost p(disliked))``; scores are its logarithm. With fewer than 500
      users each event is also shown with the latest liked and the latest disliked item, which
      attention learns to find where there are many. Its transformer has gates
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
    dislike_aversion : float, default=6.0
        What a dislike costs in the ranking of "joint"; "pnfrec" has none. 0 recommends what comes
        next, liked or not; 1 what comes next and is liked; above, each dislike that is shown costs
        ``(dislike_aversion - 1) / 6`` likes: with 6 five sixths of one, with 7 as much as a like
        gains. What is then worth nothing or less falls far behind. Probabilities of dislikes are
        those that there would be if 45 % of all events were disliked, as on MovieLens, so that a
        number means the same where dislikes are rare. Six had about the most NDCG@10 on likes minus
        that on dislikes among validation users, for a fortieth less of likes than five at most.
        Needs no new fit: see `recommend`. It has no effect if no event of the fit was disliked.
    item_memory : bool, default=True
        Whether "joint" has a memory of items beside its transformer: sparse linear weights, made
        of the training events, of what is liked with what and who likes what. It knows little of
        order and needs little data; both together mostly rank better than either. How much it
        counts is learned from the events that early stopping keeps; where it ranks these worse
        than the transformer alone, by more than a standard error, it goes.
    exclude_seen : bool or "auto", default="auto"
        Whether items that a history holds already are no candidates: in `recommend`, `score`,
        `target_ranks`, scorers and early stopping, wherever a call does not say otherwise. "auto"
        reads it off the data: where a tenth of the events repeats an item of the same user, as
        with music or groceries, seen items stay candidates. `excludes_seen_` tells what was found.
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
    learning_rate : float, default=1e-3
        Step size of Adam, as in the paper.
    batch_size : int, default=64
        The most users per step. Of fewer than 2,000 users a step takes at most a 32nd, so that an
        epoch has 32 steps. Small batches reach their best in fewer epochs, at the same time per
        epoch.
    ema_decay : float, default=0.998
        The weights that are kept and validated are an exponential moving average over the latest
        steps: about a tenth of all steps so far, so that the initial values do not linger, and
        never more than ``1 / (1 - ema_decay)`` of them. 0 takes the last weights, as in the paper.
    max_epochs : int, default=50
        The most passes over the users.
    early_stopping : bool, default=True
        Keep the latest events of some users from training, and stop when their NDCG@10 has not
        improved for `n_iter_no_change` epochs; the best weights are kept. Without liked events
        among them that could be recommended, or where nothing would be left to train on, all
        epochs run.
    validation_fraction : float, default=0.1
        Share of users whose latest events (half of them, at most ten) are kept for that: several
        of each user, for one each would be too noisy to stop on. Of many users fewer are taken:
        some thousand events say enough, and all of them are ranked after each epoch. No effect
        where `fit` gets a validation set (`X_val`).
    n_iter_no_change : int or "auto", default="auto"
        Patience of early stopping, in epochs. "auto" is 5: averaged weights improve smoothly
        (without averaging take 10, as the paper does). Of fewer than 1,000 events to rank it is 10:
        the noise of so small a mean hides what gets better.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default the columns of a frame are found by their names,
        in any usual spelling (``user_id``, ``userId``, ``movieId``, ``timestamp``, ...); where
        these leave a role in doubt, an error asks for it. Columns without names are user, item
        and time by position.
    precision : {"auto", "bfloat16", "float32"}, default="auto"
        Number format of the matrix products in training; "auto" takes bfloat16 where the
        hardware multiplies it fast. Weights, sums and recommendations are float32 always.
    device : str, default="auto"
        Where to train: "auto" takes CUDA where it is, else the CPU; or any torch device that has
        float64, as Apple's MPS has not. On CUDA many histories are also answered there, with scores
        that differ by rounding.
    random_state : int, RandomState instance or None, default=None
        An int makes a fit repeatable on one machine. The global random states are never touched.
    verbose : int, default=0
        1 draws a progress bar: one line that is updated in a terminal and a notebook, a line per
        epoch on stderr in a log. 2 writes a line per epoch everywhere. 0 is silent, but that a
        long fit says once, by the logger "posneg_rec", that it runs. The same goes for answers to
        many users and the ranks of many targets, where they take longer than a second (ten in a
        log); it can be set after a fit (``model.verbose = 1``).

    Attributes
    ----------
    fitted_ : FittedModel
        All that a fit leaves behind, in one object that never changes; the attributes below read
        it. What the model computes depends on it alone, but for `dislike_aversion` and the names
        of columns: other parameters that are set after a fit wait for the next one.
    items_ : ndarray of shape (n_items,)
        Raw item ids; the position is the item's code in the arrays below.
    weights_ : dict of str to float32 ndarray
        The parameters by name; ``weights_["item_embedding"]`` has shape (n_items, embedding_dim).
    item_likes_, item_dislikes_ : int64 ndarrays of shape (n_items,)
        How often each item was liked and disliked, in events of positive weight.
    history_ : dict of str to list
        Per epoch: epoch, loss and its terms (item_loss and feedback_loss, or positive_loss,
        negative_loss and contrastive_loss; nats), validation_score (NDCG@10, or None) and
        seconds.
    n_iter_ : int
        Epochs run.
    gap_edges_ : float64 ndarray of shape (9,) or (0,)
        Bounds between the ten ranges of time between two events that "joint" tells apart, in
        seconds for datetimes, else in the unit of the time column. None where the fit had no
        times: such a model reads none.
    feedback_coding_ : {"liked", "binary", "signed", "graded"}
        How the feedback was read, so that 0 goes on meaning what it meant.
    excludes_seen_ : bool
        Whether seen items are no candidates, see `exclude_seen`.
    precision_ : {"float32", "bfloat16"}
        Number format of the products in training: what ``precision="auto"`` chose. Pass it as
        `precision` to repeat a fit to the last bit in another process.
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
    copied, it also knows when each user of its fit was last seen, to warn when `score`
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
        name: [_constraint(kind) for kind in allowed] for name, (_, allowed) in PARAMETERS.items()
    }

    __metadata_request__partial_fit: ClassVar = NOT_ROUTED

    device: str
    verbose: int

    def __init__(
        self,
        *,
        objective: Literal["joint", "pnfrec"] = "joint",
        positive_threshold: float | tuple[float, float] | None = None,
        dislike_aversion: float = 6.0,
        item_memory: bool = True,
        exclude_seen: bool | Literal["auto"] = "auto",
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
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        ema_decay: float = 0.998,
        max_epochs: int = 50,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | Literal["auto"] = "auto",
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
        self.item_memory = item_memory
        self.exclude_seen = exclude_seen
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
        X_val: Any = None,
        y_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Learn from who met what, when, and how it was received.

        Parameters
        ----------
        interactions : frame, array of shape (n_rows, >= 2), list of histories or store
            One row per event: user, item and, if there is one, time. Columns are found as
            :class:`ContrastiveSeqRecommender` describes. Rows of one user are put in time order;
            equal times keep the order of the rows, and without a time column the rows' order is
            the order in time. A list of histories has one list of item ids, oldest first, per
            user. An :class:`~posneg_rec.store.InteractionStore` holds more than memory does, and
            the feedback as well.
        y : array-like of shape (n_rows,), list of lists, or None
            The feedback, how each event was received: bool, {0, 1}, {-1, 1}, {-1, 0, 1} (0 is
            neutral) or, with `positive_threshold`, graded. None means that everything was liked.
        feedback : array-like, default=None
            The same by its own name; scikit-learn's tools say `y`.
        sample_weight : array-like of shape (n_rows,), default=None
            How much each event counts as a target, >= 0, beside the others: a common factor
            changes nothing. Whatever its weight, an event remains context for later ones.
        X_val : frame, array or list of histories, default=None
            Interactions for early stopping to rank, instead of some of those to train on: then
            nothing is held out, and `validation_fraction` has no effect. All rows of a user are
            history; of the latest half, at most ten, the liked ones are the targets, each ranked
            after the rows before it, and all tell how much the item memory is to count. Of very
            many users a random part is ranked. Same columns and ids as `interactions`; items that
            those lack count as missed.
        y_val : array-like of shape (n_rows_val,), list of lists, or None
            The feedback of `X_val`, in the coding of `y`. Needed where there is a `y`.
        checkpoint : path-like, default=None
            A file that is written after each epoch, in one step. If it is there, the fit goes on
            from it: after a kill the same call gives what an unbroken fit would have given, on a
            CPU to the last bit. It is removed when the fit ends well. It holds weights, the
            optimiser's averages and random states, and nothing that is executed.

        Returns
        -------
        self : ContrastiveSeqRecommender

        Raises
        ------
        ValueError
            If the data or a parameter is malformed; if there is `X_val` without early stopping or
            (where there is a `y`) without `y_val`, or nothing in it that could be ranked; if the
            checkpoint is one of other data, parameters or versions. A file that is no checkpoint
            or a damaged one is a :class:`~posneg_rec.persistence.ModelFileError`, a ValueError.
        OSError
            If the checkpoint cannot be written before the first epoch.
        FloatingPointError
            If the loss or a weight stops being finite.

        Warns
        -----
        UserWarning
            If no user has two events to learn an order from, or none of weight: then popular and
            well-liked items are recommended to everybody. If nothing is liked, or nothing
            disliked. If no event of the validation part could ever be recommended. If `X_val`
            holds items that `interactions` lack. If a later checkpoint could not be written: then
            training goes on.
        FutureLeakWarning
            If targets of `X_val` are rows of `interactions`, too.

        Notes
        -----
        A fit that fails or is interrupted leaves the estimator as it was.
        """
        interactions, feedback = as_frame(interactions), one_of(y, feedback)
        validation_set = None
        if X_val is not None or y_val is not None:
            X_val = as_frame(X_val)
            self._check_validation_set(interactions, feedback, X_val, y_val)
            validation_set = X_val, y_val
        return self._fit(
            interactions,
            feedback,
            sample_weight,
            validation_set=validation_set,
            checkpoint=None if checkpoint is None else Checkpoint(checkpoint),
            partial=False,
        )

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        interactions: Any,
        y: Any = None,
        *,
        feedback: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train one more epoch, on new events; items not met before join the catalogue.

        Known items keep their codes and continue from their vectors, new ones start from random
        vectors. Pass each user's recent history with the new events: the model holds nobody's
        history, and an order can only be learned from events that are passed together. Give what
        was passed before a `sample_weight` of 0: then it is context, neither learned nor counted
        again. (As long as the object that was fitted is at hand, it also knows up to which time
        each user's events were counted.) The first call on an unfitted estimator starts a model.

        Parameters
        ----------
        interactions, y, feedback, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : ContrastiveSeqRecommender

        Notes
        -----
        Several calls on one object make one training: the optimiser's averages of gradients and
        the average of the weights go on from call to call. They are kept in memory alone, so after
        `fit`, `load`, a copy or pickling they start anew. No validation part is held out. Ranges of
        time, the reading of feedback and the parts of the model stay as the first fit chose them.
        A call that fails leaves the estimator as it was.

        Raises
        ------
        ValueError
            As in :meth:`fit`, and if a parameter that the fitted weights depend on has changed.

        Warns
        -----
        UserWarning
            As in :meth:`fit`, and if users who were met before come without any earlier event:
            the model would learn them as if they were new, and forget. It can tell as long as the
            object that was fitted is at hand, and events have times.
        """
        return self._fit(interactions, one_of(y, feedback), sample_weight, partial=True)

    def forget_items(self, ids: ArrayLike) -> Self:
        """Take items out of the catalogue: their vectors, counts and places in the item memory.

        Other items keep theirs. A history without the forgotten items is answered as before: what
        would come next by the same scores but for the normaliser, as probabilities add up to one
        over fewer items, and the probability to be liked unchanged. How much a
        `dislike_aversion` weighs is measured by the share of dislikes among the items that are
        left. In a history a forgotten item is unknown and ignored. It can join again in a
        `partial_fit`, and starts from nothing then.

        Parameters
        ----------
        ids : array-like of shape (n,)
            Raw ids, all of `items_`.

        Returns
        -------
        self : ContrastiveSeqRecommender

        Raises
        ------
        ValueError
            If an id is unknown, or no item would be left; the model stays as it was.

        Examples
        --------
        >>> from posneg_rec import ContrastiveSeqRecommender
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=60, random_state=0)
        >>> model = ContrastiveSeqRecommender(embedding_dim=8, max_epochs=1, random_state=0)
        >>> model = model.fit(world.interactions, world.feedback)
        >>> model.forget_items([2, 5]).unknown_items([2, 3, 5])
        array([2, 5])
        """
        self.fitted_ = self._checked().without(ids)
        return self

    def _check_validation_set(
        self, interactions: Any, feedback: Any, X_val: Any, y_val: Any
    ) -> None:
        """Check that there is all that early stopping needs, in the columns of the fit."""
        if X_val is None:
            raise ValueError("y_val is provided, but X_val was not provided.")
        has_y, has_y_val = (
            rows.has_feedback if is_store(rows) else told is not None
            for rows, told in ((interactions, feedback), (X_val, y_val))
        )
        if has_y and not has_y_val:
            raise ValueError("X_val is provided, but y_val was not provided, and there is a y.")
        if has_y_val and not has_y:
            raise ValueError(
                "y_val is provided, but y was not: all of X would count as liked, but not all of "
                "X_val. Pass both or neither."
            )
        if not self.early_stopping:
            raise ValueError(
                "X_val is what early stopping ranks, but early_stopping=False. Pass "
                "early_stopping=True, or no X_val."
            )
        try:
            check_columns_in(type(self).__name__, X_val, columns_in(interactions))
        except (TypeError, ValueError) as error:
            raise type(error)(f"X_val: {error}") from error

    def _fit(
        self,
        interactions: Any,
        feedback: Any,
        sample_weight: ArrayLike | None,
        *,
        validation_set: tuple[Any, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        partial: bool,
    ) -> Self:
        interactions = as_frame(interactions)
        n_epochs = 1 if partial else self.max_epochs
        context = self._init_callback_context(max_subtasks=n_epochs)
        passed = {
            "X": interactions,
            "y": feedback,
            "metadata": {} if sample_weight is None else {"sample_weight": sample_weight},
        }
        context.call_on_fit_task_begin(estimator=self, **passed)

        epochs: list[Any] = []

        def on_epoch(log: EpochLog, fitted: Callable[[], FittedModel]) -> bool:
            progress.show(log)
            # Epochs of an earlier process count as well, so that each has its own number.
            while len(epochs) < log.epoch:
                epochs.append(context.subcontext(task_name="epoch"))
            task = epochs[-1]
            task.call_on_fit_task_begin(estimator=self, **passed)
            return bool(
                task.call_on_fit_task_end(
                    estimator=self,
                    **passed,
                    reconstruction_attributes=lambda: {"fitted_": fitted()},
                )
            )

        before = vars(self).get("fitted_")
        if partial and before is not None:
            self._check_columns(interactions)
        # Numbers of NumPy as plain ones: a small type of them would overflow in what follows.
        params = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params(deep=False).items()
        }
        progress = EpochProgress(
            n_epochs, self.verbose, is_watched=bool(vars(self).get("_skl_callbacks"))
        )
        with progress:
            fitted = fit_model(
                params,
                interactions,
                feedback,
                sample_weight,
                validation_set=validation_set,
                before=before if partial else None,
                partial=partial,
                columns_in=columns_in(interactions),
                on_epoch=on_epoch,
                checkpoint=checkpoint,
            )
        # One assignment: whatever ends a fit early, the estimator is never half-way.
        self.fitted_ = fitted
        try:
            context.call_on_fit_task_end(
                estimator=self, **passed, reconstruction_attributes={"fitted_": fitted}
            )
        except BaseException:
            if before is None:
                del self.fitted_
            else:
                self.fitted_ = before
            raise
        if checkpoint is not None:
            checkpoint.remove()
        return self

    # ----------------------------------------------------------------------------------- scoring

    @overload
    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool | int | None = None,
        dislike_aversion: float | None = None,
    ) -> TargetRanks: ...

    @overload
    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool | int | None = None,
        dislike_aversion: Sequence[float] | NDArray[Any],
    ) -> list[TargetRanks]: ...

    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool | int | None = None,
        dislike_aversion: float | Sequence[float] | NDArray[Any] | None = None,
    ) -> TargetRanks | list[TargetRanks]:
        """Rank what did happen next among the whole catalogue.

        Parameters
        ----------
        interactions, feedback
            As in :meth:`fit`.
        targets : {"last", "all"} or bool array of shape (n_rows,), default="last"
            The rows to predict from their user's earlier rows: of the rows with an earlier one,
            each user's last or all; or those that the mask names.
        exclude_seen : bool or int, default=None
            Whether items of the history are no candidates, or of how many of its last events, as
            in :meth:`recommend`.
        dislike_aversion : float or sequence of float, default=None
            Instead of the constructor's, for this call. The histories are read once, however many
            there are.

        Returns
        -------
        TargetRanks, or a list of them
            In the order of the rows. Rank 1 is the top; a target that would never be recommended
            (unknown, or seen before) ranks after all items. Of a sequence of aversions one each.

        See Also
        --------
        posneg_rec.metrics.aversion_curve : What each aversion gains and costs.
        """
        aversions: Any = dislike_aversion
        several = np.ndim(aversions) == 1
        if not several:
            aversions = [self._aversion(aversions)]
        if not len(aversions):
            raise ValueError("dislike_aversion must be a number or some, got an empty sequence.")
        found = self._targets(interactions, feedback, targets)
        answers = found.ranks(
            aversions, exclude_seen=exclude_seen, device=self.device, verbose=self.verbose
        )
        return answers if several else answers[0]

    def liked_probabilities(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
    ) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """Tell how likely what did happen next was to be liked, and whether it was.

        Of "joint" alone. It is the probability in the data of the fit, unlike that in the ranking,
        which is the one that there would be if 45 % of all events were disliked.

        Parameters
        ----------
        interactions, feedback, targets
            As in :meth:`target_ranks`.

        Returns
        -------
        probabilities : float64 array of shape (n_targets,)
            Of each target, in the order of the rows, given the rows before it; NaN for an item
            that the model does not know.
        signs : int8 array of shape (n_targets,)
            1 liked, -1 disliked, 0 neutral.

        Raises
        ------
        ValueError
            If the model was fitted with another objective.
        """
        fitted, histories, users, stops = self._targets(interactions, feedback, targets)
        return fitted.liked_probabilities(histories, users, stops), histories.signs[stops]

    # ------------------------------------------------------------------------------ shared parts

    def _device(self) -> str:
        return self.device

    def _validate_params(self) -> None:
        """Check the parameters one by one, as scikit-learn does."""
        for name, value in self.get_params(deep=False).items():
            refuse_switch(name, value)
            # Other numbers (fractions, say) are real to Python, but not to NumPy or torch.
            if isinstance(value, Real) and not isinstance(value, int | float | np.number):
                raise ValueError(
                    f"{name} must be an int or a float, got {value!r:.50}: pass float(...)."
                )
        super()._validate_params()

    # --------------------------------------------------------------------------------- persisting

    def save(self, path: persistence.File) -> None:
        """Write the fitted model to a file without pickle, readable by any later version.

        Parameters
        ----------
        path : path-like or binary file object
            ``model.posneg``, say. An existing file is replaced in one step.

        Raises
        ------
        TypeError
            If item ids or parameters are of a kind that needs pickle; use ``joblib.dump`` then.
        """
        self._checked()
        persistence.write_model(path, self)

    @classmethod
    def load(cls, path: persistence.File, *, mmap: bool = False) -> Self:
        """Read a model that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path-like or binary file object
        mmap : bool, default=False
            Map the arrays of a file on disk into memory, so that all processes of a host share
            one copy of them.

        Returns
        -------
        ContrastiveSeqRecommender

        Raises
        ------
        posneg_rec.persistence.ModelFileError
            If the file is no model file, damaged, made by a newer version or made up; a
            ValueError.
        """
        return persistence.read_model(path, cls, mmap=mmap)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out, once fitted, set callbacks.

        They belong to a fit, not to a model; an unfitted estimator takes them along to the worker
        process that will fit it.
        """
        state: dict[str, Any] = super().__getstate__()
        if "fitted_" in state:
            state = {name: value for name, value in state.items() if name != "_skl_callbacks"}
        return state
