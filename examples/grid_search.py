"""Search the settings of a pipeline, choose its aversion, keep it, and recommend from the file.

On MovieLens-100K, a few minutes on two cores (takes pandas and rich; downloads 5 MB once,
unless the environment variable POSNEG_REC_DATA names a folder with ml-100k.parquet)::

    python examples/grid_search.py --jobs 2

On ratings of your own, a .csv or .parquet file with the columns user, item, rating and time (or
user_id, item_id, rating and timestamp)::

    python examples/grid_search.py --data ratings.csv --threshold 4
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import pandas as pd
import paper_protocol
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.model_selection import GridSearchCV

from posneg_rec import (
    ContrastiveSeqRecommender,
    RareItemMasker,
    SequenceBuilder,
    make_recommender_pipeline,
)
from posneg_rec.datasets import fetch_movielens
from posneg_rec.metrics import aversion_curve, choose_aversion, evaluate, recommender_scores
from posneg_rec.model_selection import TemporalSplit, held_out_mask

# The library's objective, and the paper's with the weights that its authors tuned on MovieLens-1M;
# all models get the same size and number of epochs. How much dislikes count is no part of the
# search: it needs no fit of its own, see choose_from_curve.
SETTINGS = {
    "default": {},
    "paper": {
        "objective": "pnfrec",
        "negative_weight": 0.45,
        "contrastive_weight": 0.25,
        "windows": "recent",
        "dropout": 0.1,
    },
}
MIN_USERS = [1, 5]

# What runs in the new process: it has nothing but the file and one history.
RECOMMEND = """
import json, sys
import joblib

pipeline = joblib.load(sys.argv[1])
history, ratings = json.loads(sys.argv[2])
items, scores = pipeline.recommend(history, k=5, feedback=ratings)
for item, score in zip(items, scores):
    print(f"  item {item}, score {score:.2f}")
print("torch was imported:", "torch" in sys.modules)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="ratings, .csv or .parquet")
    parser.add_argument("--threshold", type=float, default=4, help="a rating from here is a like")
    parser.add_argument("--epochs", type=int, default=20, help="the most epochs of each fit")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    arguments = parser.parse_args()
    X, y = read_ratings(arguments.data)
    print(f"{len(X):,} ratings, {(y >= arguments.threshold).mean():.0%} of them likes\n")

    # The last tenth of the time is for the winner alone; the search never sees it.
    train, test = next(TemporalSplit(quantile=0.9).split(X))
    pipeline = make_recommender_pipeline(
        SequenceBuilder(duplicates="last"),
        RareItemMasker(min_items_per_user=5),
        ContrastiveSeqRecommender(
            positive_threshold=arguments.threshold,
            embedding_dim=64,
            n_layers=1,
            max_len=30,
            batch_size=64,  # 943 users: larger batches would leave few steps in an epoch
            learning_rate=3e-3,
            max_epochs=arguments.epochs,
            random_state=0,
        ),
    )
    grid = [
        {"rareitemmasker__min_users_per_item": MIN_USERS}
        | {f"contrastiveseqrecommender__{name}": [value] for name, value in setting.items()}
        for setting in SETTINGS.values()
    ]
    search = GridSearchCV(
        pipeline,
        grid,
        cv=TemporalSplit(n_splits=3, quantile=0.7),
        scoring=recommender_scores,
        refit="ndcg_delta",
        n_jobs=arguments.jobs,
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=0))
    search.fit(X.iloc[train], y.iloc[train])
    print_results(search)

    best = search.best_estimator_
    if best[-1].objective == "joint":  # the paper's knows no aversion
        best[-1].set_params(dislike_aversion=choose_from_curve(best, X.iloc[train], y.iloc[train]))

    print("\nThe best, on the last tenth of the time:")
    print(evaluate(best, X.iloc[test], y.iloc[test], random_state=0))

    user = X.iloc[test, 0].iloc[0]
    mine = test[X.iloc[test, 0] == user][-20:]
    with TemporaryDirectory() as folder:
        path = Path(folder, "recommender.joblib")
        joblib.dump(best, path)
        print(f"\nFor user {user}, in a new process from a file of {path.stat().st_size:,} bytes:")
        history = json.dumps([X.iloc[mine, 1].tolist(), y.iloc[mine].tolist()])
        subprocess.run([sys.executable, "-c", RECOMMEND, path, history], check=True)


def choose_from_curve(pipeline: Any, X: pd.DataFrame, y: pd.Series) -> float:
    """The largest aversion that finds about as many likes as the best, of one more fit."""
    train, validation = next(TemporalSplit(quantile=0.9).split(X))
    fitted = clone(pipeline).fit(X.iloc[train], y.iloc[train])
    curve = aversion_curve(
        fitted,
        X.iloc[validation],
        y.iloc[validation],
        targets=held_out_mask(train, validation),
        random_state=0,
    )
    aversion = choose_aversion(curve)
    print(f"\nOne fit by its aversion; {aversion:g} is taken:\n{curve}")
    return aversion


def read_ratings(path: str | None) -> tuple[pd.DataFrame, pd.Series]:
    if path is None:
        movielens = fetch_movielens("100k", as_frame=True)
        return movielens.interactions, movielens.feedback
    table = paper_protocol.read_ratings(path)
    return table[paper_protocol.COLUMNS], table["rating"]


def print_results(search: GridSearchCV) -> None:
    """One line per setting, the best first."""
    results = search.cv_results_
    table = pd.DataFrame(
        {
            # The candidates of a grid follow each other.
            "setting": [name for name in SETTINGS for _ in MIN_USERS],
            "users an item needs": results["param_rareitemmasker__min_users_per_item"],
            "NDCG@10 liked": results["mean_test_ndcg_liked"],
            "disliked": -results["mean_test_neg_ndcg_disliked"],
            "delta": results["mean_test_ndcg_delta"],
            "+-": results["std_test_ndcg_delta"],
            "seconds": results["mean_fit_time"].round(1),
        }
    )
    print(table.sort_values("delta", ascending=False).round(4).to_string(index=False))
    is_paper = table["setting"] == "paper"
    difference = table["delta"][~is_paper].max() - table["delta"][is_paper].max()
    print(f"The library's best minus the paper's: {difference:+.4f}; the folds vary by +-.")


if __name__ == "__main__":
    main()
