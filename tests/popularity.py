"""A model that is not of this library, for tests of what works with any model."""

import numpy as np
from sklearn.base import BaseEstimator

from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.metrics import TargetRanks


class PopularityRecommender(BaseEstimator):
    """Rank the items by likes minus `dislike_weight` times dislikes, whatever the history."""

    def __init__(self, dislike_weight=0.0, positive_threshold=None):
        self.dislike_weight = dislike_weight
        self.positive_threshold = positive_threshold

    def fit(self, X, y=None):
        events = self._read(X, y)
        vocabulary = ItemVocabulary.from_ids(events.items)
        codes = vocabulary.encode(events.items)
        likes, dislikes = (
            np.bincount(codes[events.signs == sign], minlength=len(vocabulary)) for sign in (1, -1)
        )
        self.items_ = vocabulary.items
        self.ranking_ = np.argsort(self.dislike_weight * dislikes - likes, kind="stable")
        return self

    def target_ranks(self, X, y=None, *, targets="last", exclude_seen=True):
        histories = self._histories(X, y)
        n_items = len(self.items_)
        users, rows, signs, ranks = [], [], [], []
        for user in range(len(histories.users)):
            start, stop = histories.offsets[user : user + 2]
            for event in range(start, stop):
                if isinstance(targets, str):
                    wanted = event > start and (targets == "all" or event == stop - 1)
                else:
                    wanted = targets[histories.rows[event]]
                if not wanted:
                    continue
                seen = histories.items[start:event] if exclude_seen else []
                candidates = self.ranking_[~np.isin(self.ranking_, seen)]
                found = np.flatnonzero(candidates == histories.items[event])
                users.append(histories.users[user])
                rows.append(histories.rows[event])
                signs.append(histories.signs[event])
                ranks.append(found[0] + 1 if len(found) else n_items + 1)
        return TargetRanks(
            np.array(users), np.array(rows), np.array(signs), np.array(ranks), n_items
        )

    def recommend(self, X, k=10, *, feedback=None, exclude_seen=True):
        histories = self._histories(X, feedback)
        users, items = [], []
        for user in range(len(histories.users)):
            start, stop = histories.offsets[user : user + 2]
            seen = histories.items[start:stop] if exclude_seen else []
            top = self.ranking_[~np.isin(self.ranking_, seen)][:k]
            users.extend([histories.users[user]] * len(top))
            items.extend(self.items_[top])
        return {"user": np.array(users), "item": np.array(items)}

    def score(self, X, y=None):
        return self.target_ranks(X, y).mean("ndcg", k=10)

    def _histories(self, X, y):
        return build_histories(self._read(X, y), ItemVocabulary(self.items_))

    def _read(self, X, y):
        return read_interactions(X, y, positive_threshold=self.positive_threshold)
