"""What the runners of `peers.py` share: the task, its data, and how it is timed.

It is imported in the environment of each library, so it needs NumPy and pandas alone.
"""

import argparse
import importlib.metadata
import json
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
LIKED, K, THREADS, N_WARM_UP = 4, 10, 2, 20


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--variant", default="likes")
    parser.add_argument("--precision", required=True)
    parser.add_argument("--users", type=int, default=0, help="only so many, 0 for all")
    parser.add_argument("--epochs", type=int, required=True, help="the first warms up")
    parser.add_argument("--calls", type=int, required=True)
    return parser.parse_args()


def read_ratings(args):
    """The ratings of the first `args.users` users, or of all."""
    columns = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pd.read_parquet(args.data, columns=columns)
    if args.users:
        ratings = ratings[ratings["user_id"].isin(ratings["user_id"].unique()[: args.users])]
    return ratings.reset_index(drop=True)


def read_likes(args):
    ratings = read_ratings(args)
    return ratings[ratings["rating"] >= LIKED].reset_index(drop=True)


def split_by_user(events):
    """One frame per user with at least two events, oldest first."""
    ordered = events.sort_values(["user_id", "timestamp"], kind="stable")
    return [one for _, one in ordered.groupby("user_id") if len(one) > 1]


def time_fit(f):
    """Seconds of a whole fit, of the clock and of all threads: they tell a disturbed run."""
    start, cpu_start = time.perf_counter(), time.process_time()
    f()
    return {
        "fit_seconds": time.perf_counter() - start,
        "fit_cpu_seconds": time.process_time() - cpu_start,
    }


def time_all(recommend, n_users):
    """Seconds to recommend to all users, the best of three times after a warm-up."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        table = recommend()
        seconds.append(time.perf_counter() - start)
        assert len(table) == K * n_users
    return {"all_seconds": min(seconds[1:])}


def time_calls(recommend, histories, n_calls):
    """Milliseconds of `n_calls` calls, each for another of the histories: median and 95 %."""
    spread = np.linspace(0, len(histories) - 1, N_WARM_UP + n_calls).astype(int)
    milliseconds = []
    for i in spread:
        start = time.perf_counter()
        items = recommend(histories[i])
        milliseconds.append(1000 * (time.perf_counter() - start))
        assert len(items) == K
    p50, p95 = np.percentile(milliseconds[N_WARM_UP:], [50, 95])
    return {"p50_ms": p50, "p95_ms": p95}


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
