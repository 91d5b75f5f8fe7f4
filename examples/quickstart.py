"""Fit a recommender on likes and dislikes, and see what the dislikes are worth.

Without arguments it runs on a made-up world whose best possible ranking is known, in well under a
minute and without a download::

    python examples/quickstart.py

On ratings of your own, a .csv or .parquet file with the columns user, item, rating and time (or
user_id, item_id, rating and timestamp), it takes pandas, and pyarrow for parquet::

    python examples/quickstart.py --data ratings.csv --threshold 4

A million ratings take about ten minutes on two cores.
"""

import argparse

import numpy as np
from sklearn.base import clone

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import TargetRanks, evaluate, summarize
from posneg_rec.model_selection import LeaveLastOutSplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="ratings, .csv or .parquet")
    parser.add_argument("--threshold", type=float, default=4, help="a rating from here is a like")
    arguments = parser.parse_args()
    if arguments.data:
        on_ratings(arguments.data, arguments.threshold)
    else:
        on_synthetic_world()


def on_synthetic_world() -> None:
    world = make_opposing_patterns(n_users=1000, random_state=0)
    X, y = world.interactions, world.feedback
    print(f"{len(y)} events of 1000 users, {(y < 0).mean():.0%} of them dislikes\n")

    # Hold out each user's last event; the model ranks it from the events before.
    train, test = next(LeaveLastOutSplit().split(X))
    model = ContrastiveSeqRecommender(
        dislike_aversion=4.0,
        embedding_dim=32,
        n_layers=1,
        dropout=0.1,
        learning_rate=5e-3,
        batch_size=64,
        random_state=0,
    )
    compare(model, X[train], y[train], X[test], y[test], targets={"last event": "last"})
    print("== the best that is possible here")
    print(summarize(best_possible_ranks(world), random_state=0))

    # One history, oldest first: what comes next, and what is it?
    mine = X[:, 0] == 0
    items, scores = model.recommend(X[mine, 1], k=5, feedback=y[mine], times=X[mine, 2])
    print("\nFor user 0:")
    for item, score in zip(items, scores, strict=True):
        group, step = world.truth.item_group[item], world.truth.item_step[item]
        name = "neutral" if group == 0 else f"pair {(group - 1) // 2}, side {(group - 1) % 2}"
        print(f"  item {item:2}, score {score:6.2f}: {name}, step {step}")
    last = X[mine, 1][y[mine] > 0][-1]
    print(
        f"  their last like is at step {world.truth.item_step[last]}; "
        f"they like side {world.taste[0, 0]} of pair 0 and side {world.taste[0, 1]} of pair 1"
    )


def on_ratings(path: str, threshold: float) -> None:
    # Only here: the library needs neither pandas nor the protocol of the paper.
    from paper_protocol import COLUMNS, paper_split, read_ratings

    table = read_ratings(path)
    print(f"{len(table):,} ratings of {table['user'].nunique():,} users\n")

    split = paper_split(table[COLUMNS], table["rating"], positive_threshold=threshold)
    # Up to 50 epochs, the default, gain some more and take twice as long.
    model = ContrastiveSeqRecommender(
        positive_threshold=threshold, max_epochs=20, random_state=0, verbose=1
    )
    test = split.test
    compare(
        model,
        *split.train,
        test.interactions,
        test.feedback,
        targets={"last event": test.last, "all held-out events": test.successive},
    )

    user = test.interactions["user"].iloc[0]
    mine = (test.interactions["user"] == user).to_numpy()
    history = test.interactions[mine]
    items, scores = model.recommend(
        history["item"].to_numpy(), k=5, feedback=test.feedback[mine], times=history["time"]
    )
    print(f"For user {user}:")
    for item, score in zip(items, scores, strict=True):
        print(f"  item {item}, score {score:.2f}")


def compare(model, X_train, y_train, X_test, y_test, *, targets) -> None:
    """Fit with and without the dislikes and print how both rank likes and dislikes."""
    likes_only = clone(model).set_params(
        objective="pnfrec", negative_weight=0, contrastive_weight=0
    )
    for name, fitted in (("likes only", likes_only), ("likes and dislikes", model)):
        fitted.fit(X_train, y_train)
        print(f"== {name}: {len(fitted.items_)} items learned in {fitted.n_iter_} epochs")
        for which, rows in targets.items():
            print(f"-- {which} of each user")
            print(evaluate(fitted, X_test, y_test, targets=rows, random_state=0))
        print()


def best_possible_ranks(world) -> TargetRanks:
    """Rank each user's last event with the rules that made the world."""
    users, items, _ = world.interactions.T
    rows = np.flatnonzero(np.diff(users, append=-1))
    ranks = []
    for user, row in enumerate(rows):
        before = np.flatnonzero(users[:row] == user)
        ranking = world.truth.best_ranking(items[before], world.feedback[before])
        ranks.append(1 + np.flatnonzero(ranking == items[row])[0])
    return TargetRanks(
        users=users[rows],
        rows=rows,
        signs=world.feedback[rows].astype(np.int8),
        ranks=np.array(ranks),
        n_items=len(world.truth.item_group),
    )


if __name__ == "__main__":
    main()
