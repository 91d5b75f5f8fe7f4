"""The part of `peers.py` that runs in the environment of RecTools.

The model and its settings are those of the constructor's documentation; the trainer is the
library's own, which neither logs nor saves, with a clock added. One history becomes a `Dataset` of
its own, as its users are to be recommended to after training.
"""

import numpy as np
import pandas as pd
import torch
from peer_shared import (
    SIZES,
    THREADS,
    K,
    epoch_clock,
    parse_arguments,
    read_likes,
    report,
    split_by_user,
    time_all,
    time_calls,
    time_fit,
)
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def make_trainer(epochs, precision):
    return Trainer(
        max_epochs=epochs,
        min_epochs=epochs,
        precision=precision,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[epoch_clock(Callback, lambda batch: (len(batch["y"]), count(batch)))],
    )


def count(batch):
    return int(((batch["y"] != 0) & (batch["yw"] > 0)).sum())


def main():
    args = parse_arguments()
    torch.set_num_threads(THREADS)
    likes = read_likes(args)
    interactions = pd.DataFrame(
        {
            Columns.User: likes["user_id"],
            Columns.Item: likes["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(likes["timestamp"], unit="s"),
        }
    )
    model = SASRecModel(
        n_factors=SIZES["embedding_dim"],
        n_blocks=SIZES["n_layers"],
        n_heads=SIZES["n_heads"],
        session_max_len=SIZES["max_len"],
        batch_size=SIZES["batch_size"],
        dropout_rate=SIZES["dropout"],
        lr=SIZES["learning_rate"],
        loss="softmax",
        recommend_torch_device="cpu",
        get_trainer_func=make_trainer,
        get_trainer_func_kwargs={"epochs": args.epochs, "precision": args.precision},
    )
    fit = time_fit(lambda: model.fit(Dataset.construct(interactions)))
    clock = next(c for c in model.fit_trainer.callbacks if type(c).__name__ == "EpochClock")
    trained = clock.result()

    def recommend(events):
        dataset = Dataset.construct(events)
        users = dataset.user_id_map.external_ids
        return model.recommend(users=users, dataset=dataset, k=K, filter_viewed=True)

    def recommend_known(user):
        asked = np.array([user])  # pandas 3 refuses a list
        return model.recommend(users=asked, dataset=whole, k=K, filter_viewed=True)[Columns.Item]

    frames = [interactions.loc[one.index].reset_index(drop=True) for one in split_by_user(likes)]
    whole = Dataset.construct(interactions)
    users = [one[Columns.User].iloc[0] for one in frames]
    calls = {
        "recommend, a dataset of the one history": time_calls(
            lambda events: recommend(events)[Columns.Item], frames, args.calls
        ),
        "recommend, from the dataset of all": time_calls(recommend_known, users, args.calls),
    }
    report(
        ("rectools", "torch", "pytorch-lightning", "numpy", "pandas"),
        **trained,
        **fit,
        **time_all(lambda: recommend(interactions), interactions[Columns.User].nunique()),
        calls=calls,
    )


if __name__ == "__main__":
    main()
