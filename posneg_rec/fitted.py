"""The fitted model: everything that answers depend on, in one object that never changes.

A fit makes a new one and the estimator swaps it in by one assignment; persistence writes it, and
whatever answers a request holds one from beginning to end. Neither scikit-learn nor torch is
needed here.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec._lazy import lazy
from posneg_rec.explanation import Explanation
from posneg_rec.filters import Asked, check_excluded, read_filters
from posneg_rec.frames import is_history, is_sparse, is_store, is_vector
from posneg_rec.ids import ItemVocabulary, complete_ids
from posneg_rec.inference import METHODS, Model
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    check_table,
    read_history,
    read_interactions,
    read_times,
    table_like,
)
from posneg_rec.memory import ItemMemory, WeighedMemory, fit_next_weight, fit_taste_weights
from posneg_rec.progress import ShareProgress
from posneg_rec.queries import HistoryReader
from posneg_rec.scoring import Catalogue, Scorer, n_stages, top_k
from posneg_rec.selection import NO_FILTERS, Filters
from posneg_rec.sequences import Histories, PackedSequences, preview, shorten

if TYPE_CHECKING:
    from posneg_rec.model_selection import LastSeen
    from posneg_rec.momentum import Momentum
    from posneg_rec.progress import Watch

__all__ = ["FittedModel", "Reranked"]

Weights = dict[str, NDArray[np.float32]]

# With so many scores to make it pays to make them on a CUDA device.
_MANY_SCORES, _MANY_SCORES_WITHOUT_TORCH = 2**20, 2**28
# Likes for each dislike in the data that the default aversion was chosen on, MovieLens-1M.
_USUAL_ODDS = 0.55 / 0.45
# Items met before, of all targets that are ranked at a time (32 MiB).
_MAX_SEEN = 2**22

# Of a top k of nothing, places and scores.
_NOTHING = np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32)
# Of both doors to a model, one of which has no `set_params`.
_TO_SEE_MORE = "model.verbose = 1 shows how far it is"
# Of two scores of one item that are made in different order.
_ROUNDING = 1e-5


class Reranked(NamedTuple):
    """What :meth:`ContrastiveSeqRecommender.rerank` makes of candidates.

    Attributes
    ----------
    items : ndarray of shape (k,)
        Raw ids, best first.
    scores : float32 ndarray of shape (k,)
        Their scores, which compare within one answer alone: of "joint" they lack what makes
        probabilities of them, the same number for each, which takes the whole catalogue.
    is_exact : bool
        Whether no other item can rank among them, if the candidates are those of the greatest
        inner products. False says that more candidates may find better items.
    """

    items: NDArray[Any]
    scores: NDArray[np.float32]
    is_exact: bool


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What a fit leaves behind: arrays and numbers, no torch object and nobody's history.

    Parameters
    ----------
    method : str
        The objective it was trained by, a key of :data:`inference.METHODS`.
    n_heads : int
        Attention heads, which the shapes of the weights do not tell.
    items : ndarray of shape (n_items,)
        Raw item ids by code.
    weights : dict of str to float32 ndarray
    likes, dislikes : int64 ndarrays of shape (n_items,)
        How often each item was liked and disliked.
    gap_edges : float64 ndarray of shape (9,) or (0,)
        Bounds of the ranges of time between events; none of a model that reads no times.
    feedback_coding : {"liked", "binary", "signed", "graded"}
    positive_threshold : float, (low, high) or None
        How graded feedback was read.
    excludes_seen : bool
        Whether items of a history are no candidates, if a request does not say.
    precision : {"float32", "bfloat16"}
        Of the matrix products in training.
    history : dict of str to list
        The log of all epochs.
    memory : WeighedMemory or None
        What the items of a history bring to mind beside what their order does.
    n_features_in : int or None
        Columns of the table seen in fit, None of a list of histories.
    feature_names_in : ndarray of str or None
    last_seen : LastSeen or None
        When each user of the fit was last seen. Neither pickled nor written to a file.
    momentum : Momentum or None
        What the next `partial_fit` goes on from beside the weights. As little pickled or written.
    """

    method: str
    n_heads: int
    items: NDArray[Any]
    weights: Weights
    likes: NDArray[np.int64]
    dislikes: NDArray[np.int64]
    gap_edges: NDArray[np.float64]
    feedback_coding: str
    positive_threshold: float | tuple[float, float] | None
    excludes_seen: bool
    precision: str
    history: dict[str, list[Any]] = field(repr=False)
    memory: WeighedMemory | None = field(default=None, repr=False)
    n_features_in: int | None = None
    feature_names_in: NDArray[Any] | None = None
    last_seen: LastSeen | None = field(default=None, repr=False)
    momentum: Momentum | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """Return a short description."""
        return (
            f"FittedModel({self.method!r}, n_items={len(self.items)}, "
            f"embedding_dim={self.weights['item_embedding'].shape[1]}, n_iter={self.n_iter})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out users, what only training needs and what is made on demand."""
        left_out = ("last_seen", "momentum")
        names = {f.name for f in fields(self)}.difference(left_out)
        # Mapped arrays as copies: joblib would send the file's name, which may soon name another.
        return {name: _unmapped(getattr(self, name)) for name in names} | dict.fromkeys(left_out)

    @property
    def n_iter(self) -> int:
        """Epochs run."""
        return len(self.history["epoch"])

    @lazy
    def vocabulary(self) -> ItemVocabulary:
        """Raw ids to codes. Kept, for its look-up tables take far longer than an answer."""
        return ItemVocabulary(self.items)

    @lazy
    def model(self) -> Model:
        """Make the arithmetic ready. Kept, for that takes half as long as to answer one history."""
        return METHODS[self.method](self.weights, self.n_heads, self.gap_edges)

    @lazy
    def catalogue(self) -> Catalogue:
        """Make what items are to any request. Kept, for a large catalogue takes its time."""
        return Catalogue(self.model, self.likes, self.dislikes, self.memory)

    @property
    def columns_in(self) -> dict[str, Any]:
        """What the fit saw of columns, by field."""
        return {name: getattr(self, name) for name in ("n_features_in", "feature_names_in")}

    @property
    def sizes(self) -> dict[str, Any]:
        """The constructor parameters that the weights belong to, by name."""
        kind, weights = METHODS[self.method], self.weights
        max_len, dim = weights[f"{kind.encoder}.position_embedding"].shape
        return {
            "objective": self.method,
            "embedding_dim": dim,
            "n_layers": kind.n_layers(weights),
            "n_heads": self.n_heads,
            "max_len": max_len,
        }

    def grown(self, n_items: int, rng: np.random.Generator) -> Weights:
        """Give items that join the catalogue random vectors beside the fitted ones."""
        table = self.weights["item_embedding"]
        n_joined = n_items - len(table)
        # As small as a new model's, however long the fitted vectors have become: an item that
        # nobody has met must not rank high by chance.
        joined = rng.normal(0.0, 0.02, size=(n_joined, table.shape[1])).astype(np.float32)
        grown = {"item_embedding": np.concatenate([table, joined])}
        if "item_taste" in self.weights:
            grown["item_taste"] = np.pad(self.weights["item_taste"], (0, n_joined))
        return self.weights | grown

    def without(self, items: Any) -> FittedModel:
        """Answer :meth:`ContrastiveSeqRecommender.forget_items`."""
        if not is_vector(items):
            raise ValueError(
                f"forget_items takes item ids, got {items!r:.50}: one item goes in a list."
            )
        codes = self._codes(items, "ids")
        if (codes < 0).any():
            unknown = [item for item, code in zip(items, codes, strict=True) if code < 0]
            raise ValueError(
                f"{len(unknown)} of {len(codes)} ids are not among the {len(self.items)} items of "
                f"the fit ({preview(unknown, 3)}): pass ids of items_."
            )
        kept = np.full(len(self.items), True)
        kept[codes] = False
        if not kept.any():
            raise ValueError(f"All {len(kept)} items would be forgotten: a model needs one.")
        memory = self.memory
        if memory is not None:
            memory = memory._replace(items=memory.items.without(kept))
        by_item = ("item_embedding", "item_taste")
        return replace(
            self,
            items=self.items[kept],
            weights={
                name: value[kept] if name in by_item else value
                for name, value in self.weights.items()
            },
            likes=self.likes[kept],
            dislikes=self.dislikes[kept],
            memory=memory,
            momentum=None if self.momentum is None else self.momentum.without(kept),
        )

    # ----------------------------------------------------------------------------------- reading

    def read(
        self, interactions: Any, feedback: Any, columns: Mapping[str, str | int | None]
    ) -> Interactions:
        """Read a table, a list of histories or a store as the fit did."""
        is_told = feedback is not None or is_store(interactions)
        return read_interactions(
            interactions,
            feedback,
            positive_threshold=self.positive_threshold,
            feedback_coding=self.feedback_coding if is_told else None,
            **columns,
        )

    def check_width(self, rows: Any) -> None:
        """Hold an array of rows to the number of columns of the fit, in scikit-learn's words."""
        width = rows.shape[1] if getattr(rows, "ndim", None) == 2 else None
        if width is None or self.n_features_in is None or is_sparse(rows):
            return  # a list of histories has no columns; what else is wrong is found in reading
        check_table(rows)  # what is no table has no names to speak of
        if self.feature_names_in is not None:
            warnings.warn(
                "X does not have valid feature names, but the model was fitted with feature names",
                UserWarning,
                stacklevel=3,
            )
        if width != self.n_features_in:
            raise ValueError(
                f"X has {width} features, but the model is expecting {self.n_features_in} features "
                "as input."
            )

    def _histories(
        self,
        interactions: Any,
        feedback: Any,
        times: Any,
        columns: Mapping[str, str | int | None],
    ) -> Histories:
        """Read one history, a table or a list of histories as events of codes."""
        if not is_history(interactions):
            if times is not None:
                raise ValueError(
                    "times goes with one history; a table has them in its time column."
                )
            events = self.read(interactions, feedback, columns)
            histories = build_histories(events, self.vocabulary)
            self._warn_of_unknown(events.item_ids, histories.items)
            return histories
        items, signs = read_history(
            interactions,
            feedback,
            positive_threshold=self.positive_threshold,
            feedback_coding=self.feedback_coding if feedback is not None else None,
        )
        when, unit = (None, None) if times is None else read_times(times, len(items))
        codes = self.vocabulary.encode(items)
        self._warn_of_unknown(items, codes)
        return Histories.of_one(codes, signs, when, unit)

    def _warn_of_unknown(self, items: NDArray[Any], codes: NDArray[np.int64]) -> None:
        """Warn of items that cannot be known, or of which none of several is."""
        if codes.max(initial=-1) >= 0:
            return
        if problem := self.vocabulary.mismatch(items):
            told = "No item of the history can be one of the model's"
        elif len(codes) > 1:
            told = f"None of the {len(codes)} items passed is known to the model"
            problem = self._compared(items)
        else:
            return
        warnings.warn(
            f"{told}, so what is popular is recommended: {problem}.", UserWarning, stacklevel=5
        )

    def _compared(self, items: NDArray[Any]) -> str:
        example, known = (shorten(_plain(ids[0])) for ids in (items, self.items))
        return (
            f"they are such as {example}, and the {len(self.items)} that it knows such as {known}"
        )

    def check_rows(self, items: NDArray[Any], histories: Histories) -> None:
        """Refuse rows of which no item can be known, and warn if none is."""
        if problem := self.vocabulary.mismatch(items):
            raise ValueError(f"No item of the rows can be one of the model's: {problem}.")
        codes = histories.items
        if len(codes) > 1 and codes.max() < 0:
            warnings.warn(
                f"None of the {len(codes)} rows has an item that the model knows, so every target "
                f"counts as missed: {self._compared(items)}.",
                UserWarning,
                stacklevel=4,
            )

    def _codes(self, items: Any, name: str) -> NDArray[np.int64]:
        """Encode items that are named in a request, of which some should be known."""
        if problem := self.vocabulary.mismatch(items):
            raise ValueError(f"{name} can hold none of the model's items: {problem}.")
        return self.vocabulary.encode(items, ordered=False)

    def _code(self, item: Any) -> int:
        """Encode one item, which must be known."""
        (code,) = self._codes([item], "item")
        if code < 0:
            raise ValueError(
                f"Item {shorten(_plain(item))} is not among the {len(self.items)} items of the fit "
                f"(for example {shorten(_plain(self.items[0]))}); pass an id of items_."
            )
        return int(code)

    # ----------------------------------------------------------------------------------- answers

    def recommend(
        self,
        interactions: Any,
        k: int,
        *,
        feedback: Any,
        times: Any,
        exclude_seen: bool | int | None,
        dislike_aversion: float,
        columns: Mapping[str, str | int | None],
        device: str,
        verbose: int | None = None,
        **filters: Any,
    ) -> Any:
        """Answer :meth:`ContrastiveSeqRecommender.recommend`, which describes the parameters."""
        k = check_k(k)
        is_one = is_history(interactions)
        histories = self._histories(interactions, feedback, times, columns)
        n_users, n_items = len(histories.users), len(self.items)
        asked = Asked(self.vocabulary, None if is_one else histories.users)
        wanted = read_filters(asked, **filters)
        if wanted.diversity > 0 and "item_embedding" not in self.weights:
            raise ValueError(
                f"diversity compares vectors of items, and a {self.method} has none: leave it out, "
                "or limit groups with max_per_group."
            )
        progress = watch = None
        if not is_one:
            title = f"Recommending to {n_users:,} users"
            progress = ShareProgress(title, verbose, how_to_see_more=_TO_SEE_MORE)
            watch = progress.stages(n_stages(n_users, n_items, k, wanted))
        with progress or nullcontext():
            scorer = self._scorer_after(
                histories,
                exclude_seen=exclude_seen,
                filters=wanted,
                dislike_aversion=dislike_aversion,
                device=device,
                watch=watch,
            )
            codes, scores = scorer.top_k(k)
        found = codes >= 0
        n_found = found.sum(1)
        short = n_found < k
        if short.any():
            warnings.warn(
                f"{short.sum()} of {len(short)} histories have fewer than k={k} candidates "
                f"(the fewest: {n_found.min()}); their answers are shorter. Lower k, allow "
                f"more items{'' if scorer.filters.groups is None else ', raise max_per_group'}, or "
                "pass exclude_seen=False.",
                UserWarning,
                stacklevel=3,
            )
        items = self.items[codes[found]]
        if is_one:
            return items, scores[found]
        rank = np.broadcast_to(np.arange(1, codes.shape[1] + 1), codes.shape)
        answer = {
            "user": np.repeat(histories.users, n_found),
            "item": items,
            "score": scores[found],
            "rank": rank[found],
        }
        return table_like(interactions, answer, columns)

    def score_items(
        self,
        history: Any,
        items: ArrayLike | None,
        *,
        feedback: Any,
        times: Any,
        dislike_aversion: float,
    ) -> NDArray[np.float32]:
        """Answer :meth:`ContrastiveSeqRecommender.score_items`."""
        histories = self._histories(one_history(history), feedback, times, {})
        scorer = self._scorer_after(histories, dislike_aversion=dislike_aversion)
        scores = scorer.row(0)
        if items is None:
            return scores
        codes = self._codes(items, "items")
        return np.where(codes < 0, np.float32(np.nan), scores[codes])

    def encode(
        self,
        interactions: Any,
        *,
        feedback: Any,
        times: Any,
        dislike_aversion: float,
        columns: Mapping[str, str | int | None],
    ) -> NDArray[np.float32]:
        """Answer :meth:`ContrastiveSeqRecommender.encode`."""
        histories = self._histories(interactions, feedback, times, columns)
        return self._scorer_after(histories, dislike_aversion=dislike_aversion).query_vectors()

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """Make what the vectors of :meth:`encode` are to be multiplied with."""
        return self.catalogue.vectors()

    def rerank(
        self,
        history: Any,
        candidates: ArrayLike,
        k: int,
        *,
        feedback: Any,
        times: Any,
        exclude_seen: bool | int | None,
        dislike_aversion: float,
    ) -> Reranked:
        """Answer :meth:`ContrastiveSeqRecommender.rerank`."""
        k = check_k(k)
        excluded = check_excluded(exclude_seen, self.excludes_seen)
        codes = self._codes(candidates, "candidates")
        if (codes < 0).any():
            raise ValueError(
                f"{(codes < 0).sum()} of {len(codes)} candidates are not among the items of the "
                "fit: make the index anew, of this model's item_vectors_ and items_."
            )
        codes = np.unique(codes)
        histories = self._histories(one_history(history), feedback, times, {})
        scorer = self._scorer_after(histories, dislike_aversion=dislike_aversion)
        bounds = self.catalogue.vectors(codes) @ scorer.query_vectors()[0]
        raised = np.flatnonzero(scorer.of_neighbours()[0] > 0)
        pool = np.union1d(codes, raised)
        if excluded:
            met = histories.items if excluded is True else histories.items[-excluded:]
            pool = pool[~np.isin(pool, met)]
        following, liked = scorer.parts_of(pool)
        scores = (following + liked)[0]
        places, best = top_k(scores[None], min(k, len(pool))) if len(pool) else _NOTHING
        if best.shape[1] < k:
            warnings.warn(
                f"The history has fewer than k={k} candidates ({best.shape[1]}); the answer is "
                "shorter. Pass more candidates, lower k, or pass exclude_seen=False.",
                UserWarning,
                stacklevel=3,
            )
        # Whatever else there is has a product, and so a score, of at most the least of these.
        bound = bounds.min(initial=np.inf)
        least = best[0, -1] if best.shape[1] == k else -np.inf
        is_exact = len(codes) == len(self.items) or least >= bound + _ROUNDING * (1 + abs(bound))
        return Reranked(self.items[pool[places[0]]], best[0], bool(is_exact))

    def explain(
        self,
        history: Any,
        item: Any,
        *,
        feedback: Any,
        times: Any,
        dislike_aversion: float,
    ) -> Explanation:
        """Answer :meth:`ContrastiveSeqRecommender.explain`."""
        code = self._code(item)
        whole = self._histories(one_history(history), feedback, times, {})
        scorer_of = functools.partial(self._scorer_after, dislike_aversion=dislike_aversion)

        def scores(scorer: Scorer) -> NDArray[np.float64]:
            """Return what makes the item come next, and liked, of each query: (Q, 2)."""
            following, liked = scorer.parts_of(np.array([code]))
            if scorer.model.is_likelihood:
                following -= scorer.log_normalisers()[:, None]
            return np.hstack([following, liked]).astype(np.float64)

        of_all = scorer_of(whole)
        ((next_score, liked_score),) = scores(of_all)
        n = len(whole.items)
        effects = np.zeros((n, 2))
        of_memory = np.zeros(n)
        step = max(1, _MAX_SEEN // max(n, 1))
        for start in range(0, n, step):
            part = np.arange(start, min(start + step, n))
            without = scorer_of(_without_each(whole, part))
            effects[part] = [next_score, liked_score] - scores(without)
            if self.memory is not None:
                # The encoder still reads the whole history, the memory all but one event.
                rows = np.zeros(len(part), np.int64)
                queries = replace(without.queries, inputs=of_all.queries.inputs, rows=rows)
                forgetful = replace(without, queries=queries)
                of_memory[part] = next_score + liked_score - scores(forgetful).sum(1)
        raw = complete_ids(history, "history")
        return Explanation(
            item=self.items[code],
            score=float(next_score + liked_score),
            next_score=float(next_score),
            liked_score=float(liked_score),
            seen=bool((whole.items == code).any()),
            items=raw,
            signs=whole.signs,
            known=whole.items >= 0,
            effects=effects.sum(1).astype(np.float32),
            next_effects=effects[:, 0].astype(np.float32),
            liked_effects=effects[:, 1].astype(np.float32),
            memory_effects=of_memory.astype(np.float32),
        )

    def similar_items(self, item: Any, k: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Answer :meth:`ContrastiveSeqRecommender.similar_items`."""
        k = check_k(k)
        if is_vector(item):
            raise ValueError(
                f"similar_items takes one item id, got {item!r:.50} ({type(item).__name__}): ask "
                "for each item by itself, or pass a history to recommend."
            )
        code = self._code(item)
        table = self.weights["item_embedding"]
        norms = np.linalg.norm(table, axis=1)
        cosines = table @ table[code] / np.maximum(norms * norms[code], np.finfo(np.float32).tiny)
        cosines[code] = -np.inf
        codes, best = top_k(cosines[None], min(k, len(table)))
        found = best[0] > -np.inf
        return self.items[codes[0, found]], best[0, found]

    def unknown_items(
        self, interactions: Any, columns: Mapping[str, str | int | None]
    ) -> NDArray[Any]:
        """Answer :meth:`ContrastiveSeqRecommender.unknown_items`."""
        if is_history(interactions):
            items, _ = read_history(interactions)
        else:
            items = self.read(interactions, None, columns).item_ids
        distinct = ItemVocabulary.from_ids(items).items
        return distinct[self.vocabulary.encode(distinct) < 0]

    def ranks(
        self,
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        exclude_seen: bool | int | None = None,
        dislike_aversion: float,
        device: str = "cpu",
    ) -> NDArray[np.int64]:
        """Rank the item of each event of `stops` after its user's earlier events.

        Parameters
        ----------
        histories : Histories
        users, stops : int64 arrays of shape (n_targets,)
            The position of each target's user, and that of the target among all events.
        exclude_seen, dislike_aversion, device
            As in :meth:`ContrastiveSeqRecommender.target_ranks`.

        Returns
        -------
        int64 array of shape (n_targets,)
            1 is the top, ``n_items + 1`` an item that would never be recommended.
        """
        ranks = self.ranks_by_aversion(
            histories,
            users,
            stops,
            [dislike_aversion],
            exclude_seen=exclude_seen,
            device=device,
        )
        return ranks[0]

    def ranks_by_aversion(
        self,
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        aversions: Sequence[float],
        *,
        exclude_seen: bool | int | None = None,
        device: str = "cpu",
        verbose: int | None = None,
    ) -> NDArray[np.int64]:
        """Rank the same under several aversions, of one pass over the histories.

        Parameters
        ----------
        histories, users, stops, exclude_seen, device
            As in :meth:`ranks`.
        aversions : sequence of A floats
        verbose : int or None, default=None
            As of :class:`progress.ShareProgress`.

        Returns
        -------
        int64 array of shape (A, n_targets)
        """
        weights = [check_aversion(aversion) for aversion in aversions]
        if not self.dislikes.any():
            weights = [0.0] * len(weights)  # who never met a dislike cannot foretell one
        ranks = np.empty((len(weights), len(stops)), dtype=np.int64)
        n = len(stops)
        title = f"Ranking {n:,} targets"
        with ShareProgress(title, verbose, how_to_see_more=_TO_SEE_MORE) as progress:
            for part, reader, of_users, at in self._in_parts(histories, users, stops):
                scorer = self._scorer(
                    reader,
                    of_users,
                    at,
                    exclude_seen=exclude_seen,
                    dislike_aversion=weights[0],
                    device=device,
                    # Encoding and ranking of this part of the whole.
                    watch=progress.stages(2, part[0] / n, (part[-1] + 1) / n) if n else None,
                )
                targets = reader.histories.codes(at)
                if len(weights) == 1:
                    ranks[0, part] = scorer.ranks(targets)
                else:
                    ranks[:, part] = scorer.ranks_by_aversion(targets, weights)
        return ranks

    def liked_probabilities(
        self, histories: Histories, users: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Tell how likely the item of each event of `stops` is to be liked, as it comes next.

        Parameters
        ----------
        histories, users, stops
            As in :meth:`ranks`.

        Returns
        -------
        float64 array of shape (n_targets,)
            NaN for an unknown item.
        """
        if not self.model.is_likelihood:
            raise ValueError(
                f"A model of objective={self.method!r} knows no probability of being liked: its "
                "scores are no likelihoods. Fit one of objective='joint'."
            )
        chances = np.empty(len(stops))
        likes, dislikes = self.likes + 1.0, self.dislikes + 1.0
        for part, reader, of_users, at in self._in_parts(histories, users, stops):
            scorer = self._scorer(reader, of_users, at, exclude_seen=False, dislike_aversion=0.0)
            items, memory = reader.histories.codes(at), self.memory
            logits, tastes = scorer.tastes(None if memory is None else memory.items, items)
            if memory is not None:
                logits = memory.taste_weights.logit(logits, tastes)
            told = 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))
            # As of those whom the popular is recommended to.
            usual = (likes / (likes + dislikes))[items]
            chances[part] = np.where(scorer.queries.is_unread, usual, told)
            chances[part[items < 0]] = np.nan
        return chances

    def weighed(
        self, items: ItemMemory, histories: Histories, held: NDArray[np.bool_]
    ) -> WeighedMemory:
        """Learn from held-out events how much a memory is to count beside this model.

        Parameters
        ----------
        items : ItemMemory
            Of the training part.
        histories : Histories
            Training part and held-out events.
        held : bool array of shape (n_events,)
        """
        stops = np.flatnonzero(held)
        stops = stops[(histories.items[stops] >= 0) & (histories.signs[stops] != 0)]
        users = np.searchsorted(histories.offsets, stops, side="right") - 1
        histories, users, stops = _of_users(histories, users, stops)
        targets, signs = histories.codes(stops), histories.signs[stops]
        reader = self._reader(histories)

        def scorer_of(kept: NDArray[np.bool_]) -> Scorer:
            return self._scorer(
                reader, users[kept], stops[kept], exclude_seen=None, dislike_aversion=0.0
            )

        told = scorer_of(np.full(len(stops), True)).tastes(items, targets)
        taste_weights = fit_taste_weights(*told, signs)
        liked = signs == 1
        scorer = scorer_of(liked)
        # No item speaks for itself, so where users come back to their items others would rise.
        next_weight = 0.0
        if self.excludes_seen:
            next_weight = fit_next_weight(
                lambda block: scorer.parts(items, taste_weights, block), targets[liked]
            )
        return WeighedMemory(items, next_weight, taste_weights)

    def _in_parts(
        self, histories: Histories, users: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], HistoryReader, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield some targets at a time, a reader of their users alone, and both places there."""
        for part in _parts_of(histories, users, stops):
            of_part, of_users, at = _of_users(histories, users[part], stops[part])
            yield part, self._reader(of_part), of_users, at

    def _reader(self, histories: Histories) -> HistoryReader:
        return HistoryReader(
            histories,
            # Weights that no epoch has trained say nothing: every history falls back.
            max_len=self.sizes["max_len"] if self.n_iter else 0,
            likes_only=self.model.likes_only,
            gap_edges=self.gap_edges,
        )

    def _scorer_after(
        self, histories: Histories, *, exclude_seen: bool | int | None = False, **options: Any
    ) -> Scorer:
        """Make the scorer of what comes after all events of each history."""
        users, stops = np.arange(len(histories.users)), histories.offsets[1:]
        reader = self._reader(histories)
        return self._scorer(reader, users, stops, exclude_seen=exclude_seen, **options)

    def _scorer(
        self,
        reader: HistoryReader,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        exclude_seen: bool | int | None,
        dislike_aversion: float,
        filters: Filters = NO_FILTERS,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> Scorer:
        excluded = check_excluded(exclude_seen, self.excludes_seen)
        if not isinstance(excluded, bool):
            latest = _latest(reader.histories, users, stops, excluded)
            filters = replace(filters, denied_rows=(*filters.denied_rows, latest))
            excluded = False
        aversion = check_aversion(dislike_aversion)
        if not self.dislikes.any():
            aversion = 0.0  # who never met a dislike cannot foretell one
        return _scorer_class(device, len(users) * len(self.items))(
            self.model,
            self.likes,
            self.dislikes,
            reader.before(users, stops),
            aversion=aversion,
            exclude_seen=excluded,
            filters=filters,
            memory=self.memory,
            liked_shift=self.liked_shift,
            catalogue=self.catalogue,
            watch=watch,
        )

    @property
    def liked_shift(self) -> float:
        """What turns the odds of being liked into those where 45 % is disliked.

        An aversion then means the same everywhere: where dislikes are rare, ``log p(liked)`` is
        flat, and items that are disliked ten times as often as others would differ by nothing.
        """
        likes, dislikes = int(self.likes.sum()) + 1, int(self.dislikes.sum()) + 1
        return float(np.log(_USUAL_ODDS) - np.log(likes / dislikes))


def _parts_of(
    histories: Histories, users: NDArray[np.int64], stops: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Share out targets: each one's own copy of what its user met before takes memory."""
    n_seen = np.cumsum(stops - histories.offsets[:-1][users])
    cuts = np.flatnonzero(np.diff(n_seen // _MAX_SEEN)) + 1
    return np.split(np.arange(len(stops)), cuts)


def _of_users(
    histories: Histories, users: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[Histories, NDArray[np.int64], NDArray[np.int64]]:
    """Leave out the users that nobody asks for: their events take memory and time."""
    asked, places = np.unique(users, return_inverse=True)
    if len(asked) == len(histories):
        return histories, users, stops
    part = histories.take(asked)
    shifts = part.offsets[:-1] - histories.offsets[:-1][asked]
    return part, places, stops + shifts[places]


def _latest(
    histories: Histories, users: NDArray[np.int64], stops: NDArray[np.int64], n: int
) -> PackedSequences:
    """Return the known items of the last `n` events before each of `stops`."""
    n = min(n, len(histories.items))  # as large as it may be, it stays an int of NumPy's
    first = np.maximum(histories.offsets[:-1][users], stops - n)
    known = np.concatenate([[0], np.cumsum(histories.items >= 0)])
    items = histories.items[histories.items >= 0]
    return PackedSequences.slices(items, known[first], known[stops])


def _without_each(history: Histories, positions: NDArray[np.int64]) -> Histories:
    """Make a user of each position, with the history of one user but for the event there."""
    n_left = len(history.items) - 1
    events = np.arange(n_left) + (np.arange(n_left) >= positions[:, None])
    index = events.ravel()
    return Histories(
        np.arange(len(positions)),
        history.items[index],
        history.signs[index],
        None if history.times is None else history.times[index],
        index,
        np.arange(len(positions) + 1) * n_left,
        history.time_unit,
    )


def _plain(value: Any) -> Any:
    """Take NumPy's scalar for what it holds, which is shorter to read."""
    return value.item() if isinstance(value, np.generic) else value


def _unmapped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unmapped(part) for name, part in value.items()}
    if isinstance(value, WeighedMemory):
        return value._replace(items=ItemMemory.from_arrays(_unmapped(value.items.arrays())))
    return np.array(value) if isinstance(value, np.memmap) else value


def _scorer_class(device: str, n_scores: int) -> Callable[..., Scorer]:
    """Choose where to score: on a CUDA device if that pays off."""
    device = "cuda" if device == "auto" else device
    if not device.startswith("cuda"):
        return Scorer
    # Where nothing has loaded torch yet, loading it takes longer than many scores.
    if n_scores < (_MANY_SCORES if "torch" in sys.modules else _MANY_SCORES_WITHOUT_TORCH):
        return Scorer
    try:
        import torch
    except ImportError:
        return Scorer
    if not torch.cuda.is_available():
        return Scorer
    from posneg_rec.accelerated import AcceleratedScorer

    return functools.partial(AcceleratedScorer, device=device)


def check_k(k: int) -> int:
    """Return a number of recommendations, an int >= 1."""
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"k must be an int >= 1, got {k!r:.50}.")
    return int(k)


def check_aversion(aversion: float) -> float:
    """Return a weight of the probability to be liked, a finite number >= 0."""
    is_number = isinstance(aversion, Real) and not isinstance(aversion, bool)
    if not (is_number and 0 <= aversion < np.inf):
        raise ValueError(f"dislike_aversion must be a finite number >= 0, got {aversion!r:.50}.")
    return float(aversion)


def one_history(history: Any) -> Any:
    """Refuse what is no single history."""
    if not is_history(history):
        raise ValueError(
            "Expected one history, a flat list or 1-D array of item ids (no user is remembered), "
            f"got {type(history).__name__}; recommend takes tables and lists of histories."
        )
    return history
