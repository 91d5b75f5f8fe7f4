"""The part of `peers.py` that runs in the environment of this library."""

import numpy as np
import torch
from common import peak_rss_mib
from peer_shared import (
    SIZES,
    THREADS,
    K,
    parse_arguments,
    read_likes,
    read_ratings,
    report,
    split_by_user,
    time_all,
    time_calls,
    time_fit,
)

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.baselines import ItemItemRecommender

ITEM_ITEM, WHOLE = "item-item (EASE)", "defaults, to the end"
VARIANTS = {
    "likes": {"objective": "pnfrec", "negative_weight": 0, "contrastive_weight": 0, **SIZES},
    "two encoders": {
        "objective": "pnfrec",
        "negative_weight": 0.25,
        "contrastive_weight": 0.1,
        **SIZES,
    },
    "joint": {"item_memory": False, **SIZES},
    "defaults": {},
    WHOLE: {},
}


def main():
    args = parse_arguments()
    torch.set_num_threads(THREADS)
    counts = {}
    if args.variant == "likes":
        events, feedback = read_likes(args), None
        settings = {**VARIANTS["likes"], "windows": "recent"}  # the last, as the peers train on
        n_events = events.groupby("user_id").size().to_numpy()
        n_targets = np.minimum(n_events, settings["max_len"] + 1) - 1
        counts = {
            "users_per_epoch": int((n_targets > 0).sum()),
            "targets_per_epoch": int(n_targets.sum()),
        }
    else:
        events = read_ratings(args)
        feedback = events["rating"]
        settings = {"positive_threshold": args.threshold}
    settings["exclude_seen"] = True  # as the peers do
    if args.variant == ITEM_ITEM:
        model = ItemItemRecommender(**settings)
    else:
        if args.variant != WHOLE:
            settings |= {"max_epochs": args.epochs, "early_stopping": False}
        model = ContrastiveSeqRecommender(
            **VARIANTS[args.variant] | settings, precision=args.precision, random_state=0
        )
    fit = time_fit(lambda: model.fit(events, feedback))
    trained = {"peak_mib": peak_rss_mib(), **counts, **fit}
    if args.variant != ITEM_ITEM:
        history = model.history_
        trained |= {
            "n_epochs": len(history["seconds"]),
            "epoch_seconds": history["seconds"][1:],
            "loss": history["loss"][-1],
        }

    def recommend_one(history):
        items, ratings = history
        return model.recommend(items, K, feedback=ratings)[0]

    histories = [
        (one["item_id"].tolist(), None if feedback is None else one["rating"].tolist())
        for one in split_by_user(events)
    ]
    report(
        ("posneg-rec", "torch", "numpy", "pandas"),
        **trained,
        **time_all(
            lambda: model.recommend(events, K, feedback=feedback), events["user_id"].nunique()
        ),
        calls={"recommend": time_calls(recommend_one, histories, args.calls)},
    )


if __name__ == "__main__":
    main()
