"""From a table to a fitted model: what is read, held out, trained, counted and warned of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import posneg_rec
from posneg_rec._sklearn import check_sample_weight
from posneg_rec.checkpoint import Checkpoint, digest
from posneg_rec.columns import ROLES
from posneg_rec.fitted import FittedModel
from posneg_rec.frames import is_store, is_table
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    check_not_empty,
    read_interactions,
)
from posneg_rec.memory import ItemMemory, WeighedMemory
from posneg_rec.metrics import gain
from posneg_rec.model_selection import FutureLeakWarning, LastSeen
from posneg_rec.sequences import Histories, gap_edges, preview, ranges, shorten

if TYPE_CHECKING:
    from posneg_rec.momentum import Momentum
    from posneg_rec.training import EpochLog, Weights

__all__ = ["fit_model", "resolve_exclude_seen", "warn_of_unread"]

# At most this many of a validation user's last events become validation targets: one is too noisy
# to stop on, and each costs an encoded history.
_MAX_VALIDATION_EVENTS = 10
# Of all users together so many events are enough to stop on, and so many scores an epoch.
_MAX_VALIDATION_TARGETS, _MAX_VALIDATION_SCORES = 2**12, 2**28
# Patience where none is set, of so many targets or more, and of fewer.
_PATIENCE, _MANY_TARGETS, _LONGER_PATIENCE = 5, 1000, 10
# From this share of repeated events on, users are taken to come back to what they met.
_REPEATING = 0.1
# Of very many events the users of so many, evenly spread, tell the ranges of time and what goes
# with what: quantiles to a fortieth of a percent, and neighbours of any item that is met.
_MOST_GAPS, _MOST_REMEMBERED = 2**22, 2**24


def fit_model(
    params: Mapping[str, Any],
    interactions: Any,
    feedback: Any,
    sample_weight: ArrayLike | None,
    *,
    validation_set: tuple[Any, Any] | None = None,
    before: FittedModel | None,
    partial: bool,
    columns_in: Mapping[str, Any],
    on_epoch: Callable[[EpochLog, Callable[[], FittedModel]], bool],
    checkpoint: Checkpoint | None = None,
) -> FittedModel:
    """Make the model that a fit leaves behind.

    Parameters
    ----------
    params : mapping of str to object
        The estimator's constructor parameters, checked one by one.
    interactions, feedback, sample_weight
        As in :meth:`ContrastiveSeqRecommender.fit`.
    validation_set : (X_val, y_val), default=None
        What to validate on; None holds some of the interactions out.
    before : FittedModel or None
        The model to go on from.
    partial : bool
        Whether to run one epoch and hold nothing out.
    columns_in : mapping of str to object
        `n_features_in` and `feature_names_in` of a new model, as far as there are any.
    on_epoch : callable
        Called with each epoch's log and a function that makes the model as of then; True ends
        the fit.
    checkpoint : Checkpoint, default=None
        What a new fit goes on from, and writes to.

    Returns
    -------
    FittedModel
    """
    from posneg_rec import distributed
    from posneg_rec.objectives import OBJECTIVES
    from posneg_rec.training import Settings, resolve_device, resolve_precision, train

    if before is not None:
        _check_unchanged(params, before)
    elif params["embedding_dim"] % params["n_heads"]:
        raise ValueError(
            f"embedding_dim must divide by n_heads, got embedding_dim={params['embedding_dim']} "
            f"and n_heads={params['n_heads']}."
        )
    columns = {f"{role}_column": params[f"{role}_column"] for role in ROLES}
    if before is None:
        events = read_interactions(
            interactions, feedback, positive_threshold=params["positive_threshold"], **columns
        )
        vocabulary = ItemVocabulary.from_ids(events.item_ids)
    else:
        events = before.read(interactions, feedback, columns)
        vocabulary = before.vocabulary.extended(events.item_ids)
    n_items = len(vocabulary)
    check_not_empty(events)
    warn_of_unread(events, feedback, stacklevel=6)
    weights = _target_weights(sample_weight, events)
    histories = build_histories(events, vocabulary)
    if before is not None and before.last_seen is not None:
        _warn_of_lost_context(histories, before.last_seen)
    others, unknown_items = None, vocabulary.items[:0]
    if validation_set is not None:
        others, unknown_items = _read_validation_set(*validation_set, params, events, vocabulary)
    rng = _generator(params["random_state"], before.n_iter if before else 0)
    device = resolve_device(params["device"])
    rank, n_processes = distributed.place()
    if n_processes > 1 or checkpoint is not None:
        made_from = _made_from(params, device.type, vocabulary, histories, weights, others, before)
        made_from["processes"] = n_processes
        distributed.check_alike(made_from)
        start = distributed.from_first(lambda: dict(rng.bit_generator.state))
        if checkpoint is not None:
            checkpoint.is_ours = rank == 0
            start, checkpoint.precision = distributed.from_first(
                lambda: (checkpoint.open(made_from, start), checkpoint.precision)
            )
        rng.bit_generator.state = start
    initial = before.grown(n_items, rng) if before else None

    # Where the events of each user end that are trained on; None for all of them.
    stops: NDArray[np.int64] | None = None
    validation = None
    if before is not None:
        excludes_seen = before.excludes_seen
    else:
        repeats = histories.repeats()
        excludes_seen = resolve_exclude_seen(params["exclude_seen"], histories, repeats)
        if others is not None and validation_set is not None:
            validation = _Validation.of(others, rng.permutation(len(others)), n_items)
            _check_validation_set(
                validation, unknown_items, params["positive_threshold"], excludes_seen
            )
            if is_table(interactions) and is_table(validation_set[0]):
                _warn_of_what_was_trained_on(validation, histories, excludes_seen)
        elif params["early_stopping"] and not partial:
            can_be_hit = ~repeats if excludes_seen else np.full(len(repeats), True)
            del repeats
            validation = _hold_out(
                histories, can_be_hit, n_items, params["validation_fraction"], rng
            )
    if validation is not None and others is None:
        stops = validation.stops
    if before is not None:
        edges = before.gap_edges
    else:
        edges = gap_edges(histories.sample(_MOST_GAPS, stops).gaps())

    precision = params["precision"]
    if precision == "auto" and before is not None:
        precision = before.precision
    elif precision == "auto" and checkpoint is not None and checkpoint.precision is not None:
        precision = checkpoint.precision  # as then, whatever a stopwatch says now
    dtype = distributed.from_first(lambda: resolve_precision(precision, device))
    names = {field.name for field in fields(Settings)}
    settings = Settings(
        **{name: value for name, value in params.items() if name in names}
        | {
            "precision": str(dtype).removeprefix("torch."),
            "max_epochs": 1 if partial else params["max_epochs"],
            "n_iter_no_change": _patience(params["n_iter_no_change"], validation),
        }
    )
    if checkpoint is not None:
        checkpoint.precision = settings.precision
    objective_class = OBJECTIVES[params["objective"]]

    def objective_until(stops: NDArray[np.int64] | None) -> Any:
        return objective_class(
            histories, settings, weights, gap_edges=edges, trained=initial, stops=stops
        )

    objective = objective_until(stops)
    if stops is not None and not len(objective.trainable_users()):
        # All there is to learn from was held out.
        stops = validation = None
        objective = objective_until(None)

    def logged(log: list[EpochLog]) -> dict[str, list[Any]]:
        return _as_columns(log, objective.terms, before)

    # Until the end, counts are of the training part alone: they rank where nothing else does.
    new = _new(histories, weights, before)
    likes, dislikes = counted = _counts(histories, n_items, new, before)
    if stops is not None:
        new[ranges(stops, histories.offsets[1:] - stops)] = False
        likes, dislikes = _counts(histories, n_items, new, before)
    del new
    base = FittedModel(
        method=params["objective"],
        n_heads=params["n_heads"],
        items=vocabulary.items,
        weights={},
        likes=likes,
        dislikes=dislikes,
        gap_edges=edges,
        feedback_coding=events.feedback_coding,
        positive_threshold=params["positive_threshold"],
        excludes_seen=excludes_seen,
        precision=settings.precision,
        history=logged([]),
        last_seen=_last_seen(histories, before),
        **(columns_in if before is None else before.columns_in),
    )

    memory = None
    if params["item_memory"] and objective_class.has_memory and len(objective.trainable_users()):
        memory = _memory(histories, stops, n_items, weights, before, excludes_seen=excludes_seen)

    def at(weights: Weights, log: list[EpochLog]) -> FittedModel:
        return replace(base, weights=weights, history=logged(log))

    def finished(weights: Weights, log: list[EpochLog]) -> FittedModel:
        """Make the model that the fit would leave behind if it stopped here."""
        alone = at(weights, log)
        fitted = replace(alone, memory=memory)
        if memory is not None and validation is not None:
            weighed = alone.weighed(memory.items, validation.histories, validation.held)
            fitted = replace(alone, memory=weighed)
            # Where order is all there is, what goes with what only blurs it. But few held-out
            # events tell little, and a memory mostly helps: it goes where it harms beyond doubt.
            more = gains(fitted) - gains(alone)
            if more.mean() < -more.std() / np.sqrt(len(more)):
                fitted = alone
        return replace(fitted, likes=counted[0], dislikes=counted[1])

    def gains(fitted: FittedModel, share: slice = slice(None)) -> NDArray[np.float64]:
        assert validation is not None
        ranks = fitted.ranks(
            validation.histories,
            validation.users[share],
            validation.targets[share],
            dislike_aversion=params["dislike_aversion"],
            device=params["device"],
        )
        return gain(ranks, "ndcg", 10)

    def validate(weights: Weights, log: list[EpochLog]) -> float:
        mine = gains(at(weights, log), slice(rank, None, n_processes))
        return float(np.concatenate(distributed.gathered(mine)).mean())

    momentum: Momentum | None = None

    def keep(made: Callable[[], Momentum]) -> None:
        # After a fit the best weights need not be the latest, and few go on from there.
        nonlocal momentum
        momentum = distributed.from_first(made) if partial else None

    trained, log = train(
        objective,
        n_items,
        settings,
        rng=rng,
        initial_weights=initial,
        validate=None if validation is None else validate,
        on_epoch=lambda log, weights: on_epoch(log[-1], lambda: finished(weights(), log)),
        checkpoint=checkpoint,
        momentum=before.momentum.grown(initial) if before and before.momentum and initial else None,
        on_end=keep,
    )
    fitted = replace(finished(trained, log), momentum=momentum)
    if memory is not None and n_processes > 1:
        # Rounding differs from host to host.
        own = fitted.memory
        weights_of_first = distributed.from_first(
            lambda: None if own is None else (own.next_weight, own.taste_weights)
        )
        kept = None if weights_of_first is None else WeighedMemory(memory.items, *weights_of_first)
        fitted = replace(fitted, memory=kept)
    is_told = interactions.has_feedback if is_store(interactions) else feedback is not None
    if is_told or not log:
        _warn_of_what_was_not_learned(fitted, events, is_trained=bool(log))
    return fitted


def _check_unchanged(params: Mapping[str, Any], before: FittedModel) -> None:
    """Check that the parameters are those that the fitted weights belong to."""
    depended_on = before.sizes | {"positive_threshold": before.positive_threshold}
    changed = {name: value for name, value in depended_on.items() if params[name] != value}
    if changed:
        now = ", ".join(f"{name}={params[name]!r:.50}" for name in changed)
        then = ", ".join(f"{name}={value!r:.50}" for name, value in changed.items())
        raise ValueError(
            f"partial_fit goes on with a model of {then}, but now {now}. Set the parameters back, "
            "or call fit to start a new model."
        )


def _generator(
    random_state: int | np.random.RandomState | None, n_before: int
) -> np.random.Generator:
    """Make a generator of our own: None draws from the system, never from a global state.

    After `n_before` epochs an int gives other numbers than at first: what joins a catalogue later
    must not start from the vectors that others started from.
    """
    if random_state is None:
        return np.random.default_rng()
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(2**31)))
    return np.random.default_rng([int(random_state), n_before] if n_before else int(random_state))


def _target_weights(
    sample_weight: ArrayLike | None, events: Interactions
) -> NDArray[np.float32] | None:
    """Check the weights of the caller's rows; return them as parts of the largest."""
    if sample_weight is None:
        return None
    rows = np.broadcast_to(np.float32(0), (events.n_rows, 1))
    weights = check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    largest = max(weights[events.rows].max(), np.finfo(np.float64).tiny)
    shares: NDArray[np.float32] = np.minimum(weights / largest, 1).astype(np.float32)
    return shares


def warn_of_unread(events: Interactions, feedback: Any, *, stacklevel: int) -> None:
    """Warn where no feedback was passed but a column may hold it."""
    if feedback is None and events.ignored:
        name = shorten(events.ignored[0])
        warnings.warn(
            f"No feedback was passed, so everything counts as liked, and the column {name} is not "
            f"read. If it holds how each event was received, pass it as feedback: "
            f"fit(interactions, interactions[{name}]).",
            UserWarning,
            stacklevel=stacklevel,
        )


def resolve_exclude_seen(
    exclude_seen: bool | str, histories: Histories, repeats: NDArray[np.bool_]
) -> bool:
    """Settle "auto" by the share of events that repeat, of those that could."""
    if exclude_seen != "auto":
        return bool(exclude_seen)
    n_later = int(np.maximum(histories.lengths - 1, 0).sum())
    return int(repeats.sum()) < _REPEATING * max(n_later, 1)


def _made_from(
    params: Mapping[str, Any],
    device: str,
    vocabulary: ItemVocabulary,
    histories: Histories,
    weights: NDArray[np.float32] | None,
    validation_set: Histories | None,
    before: FittedModel | None,
) -> dict[str, Any]:
    """Name all that the result of a fit depends on, but for the machine."""
    import torch

    # Those that are left out say where the data is, which is compared itself, or what is printed.
    left_out = {f"{role}_column" for role in ROLES} | {"verbose", "device"}
    made_from: dict[str, Any] = {
        "posneg_rec": posneg_rec.__version__,
        "torch": str(torch.__version__),
        "device": device,
    }
    made_from |= {name: _plain(value) for name, value in params.items() if name not in left_out}

    def of(events: Histories) -> str:
        return digest(events.items, events.signs, events.times, events.time_unit, events.offsets)

    made_from["checksum of the interactions"] = digest(vocabulary.items, of(histories))
    made_from["checksum of sample_weight"] = weights is not None and digest(weights[histories.rows])
    made_from["checksum of X_val"] = validation_set is not None and of(validation_set)
    made_from["checksum of the model"] = before is not None and digest(*before.weights.values())
    momentum = None if before is None else before.momentum
    made_from["checksum of the momentum"] = momentum is not None and digest(
        *momentum.model.values(), momentum.average_steps
    )
    return made_from


def _plain(value: Any) -> Any:
    """Turn a parameter into what JSON gives back; a generator tells no more than its kind."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float | None) else type(value).__name__


class _Validation(NamedTuple):
    """Events that nothing is trained on, and those of them that are to be predicted."""

    histories: Histories
    held: NDArray[np.bool_]  # of all their events
    users: NDArray[np.int64]  # position of each target's user
    targets: NDArray[np.int64]  # position of each target among all events
    stops: NDArray[np.int64]  # where each user's other events end

    @classmethod
    def of(cls, histories: Histories, chosen: NDArray[np.int64], n_items: int) -> _Validation:
        """Take the latest half of some users' events, of each at most ten.

        Its likes are the targets, each ranked by exactly what ``recommend`` would show at that
        moment. Where they would be too many, the users that come later are left out.
        """
        n_latest = np.minimum(histories.lengths[chosen] // 2, _MAX_VALIDATION_EVENTS)
        most = min(_MAX_VALIDATION_TARGETS, max(_MAX_VALIDATION_SCORES // n_items, 2**8))
        n_latest[np.cumsum(n_latest) > most] = 0
        n_held = np.zeros(len(histories), dtype=np.int64)
        n_held[chosen] = n_latest
        stops = histories.offsets[1:] - n_held
        held = np.zeros(len(histories.items), dtype=bool)
        events = ranges(stops, n_held)
        held[events] = True
        liked = histories.signs[events] == 1
        users = np.repeat(np.arange(len(histories)), n_held)
        return cls(histories, held, users[liked], events[liked], stops)


def _hold_out(
    histories: Histories,
    can_be_hit: NDArray[np.bool_],
    n_items: int,
    fraction: float,
    rng: np.random.Generator,
) -> _Validation | None:
    """Keep the last events of a share of the users from training, to validate on."""
    n_users = len(histories)
    chosen = rng.permutation(n_users)[: min(int(np.ceil(fraction * n_users)), n_users - 1)]
    validation = _Validation.of(histories, chosen, n_items)
    n_targets = len(validation.targets)
    if n_targets and not can_be_hit[validation.targets].any():
        warnings.warn(
            f"All {n_targets} events kept for early stopping repeat an item of their user, and "
            "with exclude_seen=True none of them can be recommended: nothing is held out, and all "
            "epochs run. Pass exclude_seen='auto' or False.",
            UserWarning,
            stacklevel=6,
        )
        return None
    return validation if n_targets else None


def _patience(n_iter_no_change: int | str, validation: _Validation | None) -> int:
    """Choose for how many epochs to wait for a better score, where the caller does not."""
    if not isinstance(n_iter_no_change, str):
        return int(n_iter_no_change)
    # A mean of few is noisy: a gain that shows beside the noise takes more epochs.
    is_noisy = validation is not None and len(validation.targets) < _MANY_TARGETS
    return _LONGER_PATIENCE if is_noisy else _PATIENCE


def _read_validation_set(
    interactions: Any,
    feedback: Any,
    params: Mapping[str, Any],
    trained: Interactions,
    vocabulary: ItemVocabulary,
) -> tuple[Histories, NDArray[Any]]:
    """Read the caller's own validation set as the rows to train on were read.

    Returns its histories, and the ids of items that those rows lack.
    """
    is_told = feedback is not None or is_store(interactions)
    try:
        events = read_interactions(
            interactions,
            feedback,
            positive_threshold=params["positive_threshold"],
            feedback_coding=trained.feedback_coding if is_told else None,
            **{f"{role}_column": params[f"{role}_column"] for role in ROLES},
        )
        check_not_empty(events)
        problem = vocabulary.mismatch(events.item_ids)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"X_val, y_val: {error}") from error
    if problem is not None:
        raise ValueError(f"X_val holds no item of X: {problem}.")
    histories = build_histories(events, vocabulary)
    unknown = events.item_ids[vocabulary.encode(events.item_ids) < 0]
    if len(unknown) == len(events.item_ids):
        raise ValueError(
            f"X_val holds no item of X: it has {preview(unknown, 3)}, X has "
            f"{preview(vocabulary.items, 3)}. Pass rows of the same items."
        )
    return histories, unknown


def _check_validation_set(
    validation: _Validation,
    unknown_items: NDArray[Any],
    positive_threshold: Any,
    excludes_seen: bool,
) -> None:
    """Check that there is something to rank in the caller's own validation set."""
    histories, held, _, targets, _ = validation
    if not held.any():
        raise ValueError(
            f"None of the {len(histories)} users of X_val has a second event, and a first one has "
            "no history to be foretold from. Pass more of each user's rows."
        )
    if not len(targets):
        raise ValueError(
            f"None of the {np.count_nonzero(held)} latest events of the users of X_val (half of "
            "each user's, at most ten) is liked, and early stopping ranks likes. Pass other "
            f"users, or check y_val and positive_threshold (now {positive_threshold!r:.50})."
        )
    unknown = histories.items[targets] < 0
    repeats = histories.repeats()[targets] & excludes_seen
    if (unknown | repeats).all():
        raise ValueError(
            f"None of the {len(targets)} liked latest events of X_val could be recommended: "
            f"{np.count_nonzero(unknown)} are of items that X does not hold, "
            f"{np.count_nonzero(repeats)} repeat an item of their user (excludes_seen_ is "
            f"{excludes_seen}). Pass rows of X's items, or exclude_seen=False."
        )
    if len(unknown_items):
        warnings.warn(
            f"{np.count_nonzero(histories.items < 0)} of {len(histories.items)} events of X_val "
            f"are of items that X does not hold ({preview(unknown_items, 3)}): in a history they "
            "are ignored, and as targets they count as missed.",
            UserWarning,
            stacklevel=6,
        )


def _warn_of_what_was_trained_on(
    validation: _Validation, trained: Histories, excludes_seen: bool
) -> None:
    """Warn of targets that are rows to train on, or lie before such rows of their user."""
    histories, n_items = validation.histories, int(trained.items.max(initial=0)) + 1
    users = ItemVocabulary(trained.users).encode(histories.users)[validation.users]
    items = histories.items[validation.targets]
    known = np.unique(users[users >= 0])
    those = trained.take(known)
    met = np.repeat(known, those.lengths) * n_items + those.items
    leaks = (users >= 0) & (items >= 0) & np.isin(users * n_items + items, met)
    last_seen = LastSeen.of(trained)
    if last_seen is not None and histories.times is not None:
        leaks &= last_seen.covers(histories)[validation.targets]
    elif not excludes_seen:
        return  # without times a row that comes back looks like a row that was trained on
    if leaks.any():
        warnings.warn(
            f"{np.count_nonzero(leaks)} of {len(leaks)} targets of X_val are rows of X, too: early "
            "stopping ranks what was trained on. Leave the users of X_val out of X, or their "
            "latest rows (LeaveLastOutSplit, TemporalSplit, UserHoldoutSplit).",
            FutureLeakWarning,
            stacklevel=6,
        )


def _new(
    histories: Histories, weights: NDArray[np.float32] | None, before: FittedModel | None
) -> NDArray[np.bool_]:
    """Tell which events have weight and were not counted before."""
    new = np.full(len(histories.items), True)
    if weights is not None:
        for _, events, part in histories.parts():
            new[events] = weights[part.rows] > 0
    if before is not None and before.last_seen is not None:
        new &= ~before.last_seen.covers(histories)
    return new


def _counts(
    histories: Histories,
    n_items: int,
    counted: NDArray[np.bool_],
    before: FittedModel | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count how often each item was liked and disliked in the events that are `counted`."""
    likes, dislikes = np.zeros((2, n_items), np.int64)
    for _, events, part in histories.parts():
        for counts, sign in ((likes, 1), (dislikes, -1)):
            np.add.at(counts, part.items[counted[events] & (part.signs == sign)], 1)
    if before is not None:
        likes[: len(before.items)] += before.likes
        dislikes[: len(before.items)] += before.dislikes
    return likes, dislikes


def _memory(
    histories: Histories,
    stops: NDArray[np.int64] | None,
    n_items: int,
    weights: NDArray[np.float32] | None,
    before: FittedModel | None,
    *,
    excludes_seen: bool,
) -> WeighedMemory | None:
    """Remember the events of weight up to the stops, beside what was remembered before."""
    if before is not None and before.memory is None:
        return None
    training = histories.sample(_MOST_REMEMBERED, stops)
    new = _new(training, weights, before)
    if not new.all():
        training = training.select(new)
    if before is None or before.memory is None:
        memory = WeighedMemory(ItemMemory.fit(training, n_items))
        return memory if excludes_seen else memory._replace(next_weight=0.0)
    items = ItemMemory.fit(training, n_items, prior=before.memory.items)
    return before.memory._replace(items=items)


def _warn_of_lost_context(histories: Histories, last_seen: LastSeen) -> None:
    """Warn of users who were met before, and of whom only later events are passed."""
    if not last_seen.compares(histories):
        return
    known = ItemVocabulary(last_seen.users).encode(histories.users) >= 0
    covered, with_context = last_seen.covers(histories), np.zeros(len(histories), bool)
    for users, events, part in histories.parts():
        n_covered = np.concatenate([[0], np.cumsum(covered[events])])
        with_context[users] = np.diff(n_covered[part.offsets]) > 0
    lost = np.flatnonzero(known & ~with_context & (histories.lengths > 0))
    if len(lost):
        warnings.warn(
            f"{len(lost)} of {len(histories)} users were met before, but none of their earlier "
            f"events is passed ({preview(histories.users[lost], 3)}): they are learned as if they "
            "were new, and the model forgets how long histories go on. Pass each user's recent "
            "events, too, with sample_weight 0.",
            UserWarning,
            stacklevel=5,
        )


def _last_seen(histories: Histories, before: FittedModel | None) -> LastSeen | None:
    now = LastSeen.of(histories)
    if before is None or before.last_seen is None:
        return now
    return before.last_seen.merged(now)


def _as_columns(
    log: list[EpochLog], terms: tuple[str, ...], before: FittedModel | None
) -> dict[str, list[Any]]:
    """Turn the log of a fit into columns, after those of the fits before."""
    columns: dict[str, list[Any]] = {
        "epoch": [epoch.epoch for epoch in log],
        **{name: [epoch.losses[name] for epoch in log] for name in ("loss", *terms)},
        "validation_score": [epoch.validation_score for epoch in log],
        "seconds": [epoch.seconds for epoch in log],
    }
    if before is not None:
        columns = {name: [*before.history[name], *values] for name, values in columns.items()}
        columns["epoch"] = list(range(1, len(columns["epoch"]) + 1))
    return columns


def _warn_of_what_was_not_learned(
    fitted: FittedModel, events: Interactions, *, is_trained: bool
) -> None:
    liked, disliked = (int(np.count_nonzero(events.signs == sign)) for sign in (1, -1))
    check = (
        f"check the feedback and positive_threshold (now {fitted.positive_threshold!r:.50}): of "
        f"{len(events.signs)} events {liked} are read as liked, {disliked} as disliked."
    )
    if not is_trained:
        message = (
            "No user has two events to learn an order from, the later one of positive weight and "
            f"not neutral ({events.n_rows} rows, {len(events.user_ids)} users; 'pnfrec' needs two "
            "liked ones), so popular items will be recommended. Pass more of each user's history, "
            f"or {check}"
        )
    elif not fitted.likes.any():
        none = "None of the events is liked" if not liked else f"All {liked} likes have weight 0"
        message = (
            f"{none}: there is nothing to stop early on, and every item counts "
            f"as one to avoid. If some are meant to be liked, {check}"
        )
    elif not fitted.dislikes.any():
        none = f"None of the {events.n_rows} events is disliked"
        if disliked:
            none = f"All {disliked} dislikes have weight 0"
        message = (
            f"{none}, so only what comes next is learned, as SASRec does, and dislike_aversion has "
            f"no effect. If some are meant to be disliked, {check}"
        )
    else:
        return
    warnings.warn(message, UserWarning, stacklevel=6)
