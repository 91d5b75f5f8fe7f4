"""Score the day, then learn it: a model left alone, one that goes on, one fitted every night.

A made-up shop of groups of items, each a cycle: after an item comes the next of its group. A day,
some users move on to another group (drift), an item of each group leaves, and another takes its
place (new items). Each day is first scored with the models of the night before, then learned.

    python examples/days.py --days 30 --picture days.png
"""

import argparse
import time

import numpy as np

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.metrics import gain

N_GROUPS, GROUP_SIZE, EVENTS_A_DAY, START = 8, 8, 4, 10


class Shop:
    """Users with a liked and a disliked group each, and groups whose items come and go."""

    def __init__(self, n_users, drift, random_state):
        self.rng = np.random.default_rng(random_state)
        self.drift = drift
        self.groups = np.arange(N_GROUPS * GROUP_SIZE).reshape(N_GROUPS, GROUP_SIZE)
        self.liked = self.rng.integers(N_GROUPS, size=n_users)
        self.step = self.rng.integers(GROUP_SIZE, size=n_users)
        self.n_items = self.groups.size
        self.day = 0

    def run(self):
        """Return a day's rows of user, item and time, and the feedback; tell what has left."""
        gone = []
        if self.day >= START:
            moves = self.rng.random(len(self.liked)) < self.drift
            self.liked[moves] = self.rng.integers(N_GROUPS, size=moves.sum())
            for group in self.groups:
                place = self.day % GROUP_SIZE
                if self.day % 3 == 0:
                    gone.append(group[place])
                    group[place], self.n_items = self.n_items, self.n_items + 1
        rows, feedback = [], []
        for event in range(EVENTS_A_DAY):
            likes = self.rng.random(len(self.liked)) < 0.6
            self.step = (self.step + likes) % GROUP_SIZE
            group = np.where(likes, self.liked, (self.liked + N_GROUPS // 2) % N_GROUPS)
            when = np.full(len(group), self.day * 100 + event)
            rows.append(
                np.column_stack([np.arange(len(group)), self.groups[group, self.step], when])
            )
            feedback.append(np.where(likes, 1, -1))
        self.day += 1
        return np.concatenate(rows), np.concatenate(feedback), gone


def simulate(n_users=150, n_days=30, drift=0.03, max_epochs=4, random_state=0):
    """Return, for each way and day, NDCG@10 on likes, and the seconds of each night."""
    shop = Shop(n_users, drift, random_state)
    days = [shop.run() for _ in range(START)]
    settings = {"embedding_dim": 16, "max_len": 40, "max_epochs": max_epochs, "exclude_seen": False}

    def refitted(rows, feedback):
        model = ContrastiveSeqRecommender(**settings, early_stopping=False, random_state=0)
        return model.fit(rows, feedback)

    def joined(parts):
        return tuple(np.concatenate([day[i] for day in parts]) for i in range(2))

    start = joined(days)
    models = {name: refitted(*start) for name in ("stale", "partial_fit", "refit")}
    scores = {name: [] for name in models}
    seconds = {name: [] for name in models}
    for _ in range(n_days):
        *today, gone = shop.run()
        # The users' recent days are history: context, neither scored nor counted again.
        context = joined(days[-START:])
        rows, feedback = (np.concatenate(both) for both in zip(context, today, strict=True))
        new = np.arange(len(rows)) >= len(context[0])
        for name, model in models.items():
            found = model.target_ranks(rows, feedback, targets=new)
            scores[name].append(float(gain(found.ranks[found.signs == 1], "ndcg", 10).mean()))
        days.append((*today, gone))
        for name in ("partial_fit", "refit"):
            before = time.perf_counter()
            if name == "refit":
                models[name] = refitted(*joined(days[-START:]))
            else:
                model = models[name]
                known = np.intersect1d(gone, model.items_)
                if len(known):
                    model.forget_items(known)
                # A row of what has left would join again.
                kept = ~np.isin(rows[:, 1], gone)
                model.partial_fit(rows[kept], feedback[kept], sample_weight=new[kept].astype(float))
            seconds[name].append(time.perf_counter() - before)
    return scores, seconds


def draw(scores, path):
    """Draw NDCG@10 on likes over the days."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, values in scores.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=name)
    axes.set(xlabel="day", ylabel="NDCG@10 on the day's likes", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=150)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    scores, seconds = simulate(arguments.users, arguments.days)
    for name, values in scores.items():
        night = np.mean(seconds[name]) if seconds[name] else 0.0
        print(
            f"{name:12s} NDCG@10 {np.mean(values):.3f}  last {np.mean(values[-5:]):.3f}", end="  "
        )
        print(f"{night:.2f} s a night")
    if arguments.picture:
        draw(scores, arguments.picture)
