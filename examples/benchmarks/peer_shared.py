"""What the runners of `peers.py` share: the task, its data, and how it is timed.

It is imported in the environment of each library, so it needs NumPy and pandas alone.
"""

import argparse
import importlib.metadata
import json
import os
import time

import numpy as np
import pandas as pd
from common import peak_rss_mib

SIZES = {
    "embedding_dim": 128,
    "n_layers": 2,
    "n_heads": 1,
    "max_len": 50,
    "batch_size": 500,
    "dropout": 0.2,
    "learning_rate": 1e-3,
}
K, THREADS, N_WARM_UP = 10, 2, 20
# What a file's columns are called here, the option that names each, and its usual name.
COLUMNS = {
    "user_id": ("--user-column", "user_id"),
    "item_id": ("--item-column", "item_id"),
    "rating": ("--rating-column", "rating"),
    "timestamp": ("--time-column", "timestamp"),
}


def parse_arguments(arguments=None):
    """What a runner is asked for; `peers.py` asks."""
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    parser.add_argument("--variant", default="likes")
    parser.add_argument("--precision", help="for libraries that offer a choice")
    parser.add_argument("--epochs", type=int, required=True, help="the first warms up")
    parser.add_argument("--calls", type=int, required=True)
    return parser.parse_args(arguments)


def add_data_arguments(parser):
    """Which file, what its columns are called, and what a like is."""
    parser.add_argument("--data", metavar="FILE", required=True, help="ratings, .csv or .parquet")
    parser.add_argument("--threshold", type=float, default=4, help="a rating from here is a like")
    for name, (option, default) in COLUMNS.items():
        parser.add_argument(option, dest=name, metavar="NAME", default=default)
    parser.add_argument("--users", type=int, default=0, help="only so many, 0 for all")


def data_arguments(args):
    """The same as a list, to hand on to a runner."""
    options = {"--data": args.data, "--threshold": args.threshold, "--users": args.users}
    options |= {option: getattr(args, name) for name, (option, _) in COLUMNS.items()}
    return [text for option, value in options.items() for text in (option, str(value))]


def read_ratings(args):
    """The ratings of users with two likes at least, of the first `args.users` or of all.

    With one like there is no next one to learn, and libraries differ in what they do about it.
    """
    given = {getattr(args, name): name for name in COLUMNS}
    is_parquet = str(args.data).endswith(".parquet")
    present = _parquet_columns(args.data) if is_parquet else pd.read_csv(args.data, nrows=0).columns
    missing = [column for column in given if column not in present]
    if missing or len(given) < len(COLUMNS):
        what = f"no {', '.join(missing)}" if missing else "one was named twice"
        options = ", ".join(option for option, _ in COLUMNS.values())
        raise SystemExit(
            f"{args.data} has the columns {', '.join(map(str, present))}: {what}. Name them by "
            f"{options}."
        )
    if is_parquet:
        ratings = pd.read_parquet(args.data, columns=list(given))
    else:
        ratings = pd.read_csv(args.data, usecols=list(given))
    ratings = ratings.rename(columns=given)[list(COLUMNS)]
    likes = ratings.loc[ratings["rating"] >= args.threshold, "user_id"].value_counts()
    ratings = ratings[ratings["user_id"].isin(likes.index[likes >= 2])]
    if args.users:
        ratings = ratings[ratings["user_id"].isin(ratings["user_id"].unique()[: args.users])]
    if not len(ratings):
        raise SystemExit(
            f"No user of {args.data} has two ratings from {args.threshold:g} on; --threshold says "
            "what a like is."
        )
    return ratings.reset_index(drop=True)


def _parquet_columns(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_schema(path).names


def read_likes(args):
    ratings = read_ratings(args)
    return ratings[ratings["rating"] >= args.threshold].reset_index(drop=True)


def split_by_user(events):
    """One frame per user with at least two events, oldest first."""
    ordered = events.sort_values(["user_id", "timestamp"], kind="stable")
    return [one for _, one in ordered.groupby("user_id") if len(one) > 1]


def time_fit(f):
    """Seconds of a whole fit, from the frame on: of the clock, and of the processor.

    The second are those of all threads and of processes that have ended: what a fit costs in
    energy. Together they tell a disturbed run.
    """
    start, cpu_start = time.perf_counter(), cpu_seconds()
    f()
    return {
        "fit_seconds": time.perf_counter() - start,
        "fit_cpu_seconds": cpu_seconds() - cpu_start,
    }


def cpu_seconds():
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def time_all(recommend, n_users):
    """Seconds to recommend to all users, the best of three times after a warm-up.

    Neighbours alone may give a user fewer than ten items: `all_filled` is the share of the places.
    """
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        table = recommend()
        seconds.append(time.perf_counter() - start)
        assert 0 < len(table) <= K * n_users
    return {
        "n_users": n_users,
        "all_seconds": min(seconds[1:]),
        "all_filled": len(table) / (K * n_users),
    }


def time_calls(recommend, histories, n_calls):
    """Milliseconds of `n_calls` calls, each for another of the histories: median and 95 %."""
    spread = np.linspace(0, len(histories) - 1, N_WARM_UP + n_calls).astype(int)
    milliseconds = []
    for i in spread:
        start = time.perf_counter()
        items = recommend(histories[i])
        milliseconds.append(1000 * (time.perf_counter() - start))
        assert len(items) <= K
    p50, p95 = np.percentile(milliseconds[N_WARM_UP:], [50, 95])
    return {"p50_ms": p50, "p95_ms": p95}


def time_new_users(recommend, likes, n_calls):
    """Calls for users whom the fit has not seen, of what each of them liked, oldest first."""
    histories = [one["item_id"].tolist() for one in split_by_user(likes)]
    return {"recommend, a new user": time_calls(recommend, histories, n_calls)}


def epoch_clock(callback_class, count):
    """A callback of Lightning that times epochs from end to end, and sees what they hold.

    `count` tells the sequences and the targets of a batch; it is called in the first epoch alone,
    which warms up.
    """

    class EpochClock(callback_class):
        def __init__(self):
            self.ends, self.n_users, self.n_targets, self.loss = [], 0, 0, None

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch == 0:
                n_users, n_targets = count(batch)
                self.n_users += n_users
                self.n_targets += n_targets

        def on_train_epoch_end(self, trainer, module):
            self.ends.append(time.perf_counter())

        def on_train_end(self, trainer, module):
            self.loss = float(trainer.callback_metrics["train_loss"])

        def result(self):
            return {
                "epoch_seconds": np.diff(self.ends).tolist(),
                "users_per_epoch": self.n_users,
                "targets_per_epoch": self.n_targets,
                "loss": self.loss,
                "peak_mib": peak_rss_mib(),
            }

    return EpochClock()


def report(packages, **results):
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"versions": versions, **results}))
