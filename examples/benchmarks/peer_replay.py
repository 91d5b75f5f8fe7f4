"""The part of `peers.py` that runs in the environment of RePlay.

The model is `SasRec.from_params` with its full cross-entropy, fed by `ParquetModule`, as the
documentation has it; frames are polars frames, which the library is fastest with. All users are
recommended to by `Trainer.predict` with the callback for top items. One history is answered by
the forward pass of the trained model and, where openvino and onnx are installed, by the compiled
model, which exists for the older `SasRec` alone (untrained here: its weights do not change its
speed). Both times hold what a caller must add: codes, padding, the filter of seen items, top k.
"""

import contextlib
import tempfile
from pathlib import Path

import lightning
import numpy as np
import polars as pl
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
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import PolarsTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms
from replay.preprocessing.label_encoder import LabelEncoder, LabelEncodingRule

LENGTH, USERS = SIZES["max_len"], SIZES["batch_size"]


def make_trainer(**settings):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **settings,
    )


def make_schema(n_items):
    return TensorSchema(
        TensorFeatureInfo(
            "item_id",
            FeatureType.CATEGORICAL,
            is_seq=True,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            cardinality=n_items,
            padding_value=n_items,
            embedding_dim=SIZES["embedding_dim"],
        )
    )


def write_sequences(encoder, events, path):
    """Write one row per user: its items as codes, and how long the longest list is."""
    lists = (
        encoder.transform(events)
        .sort("user_id", "timestamp", maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .agg("item_id")
        .with_columns(seen_ids="item_id")
    )
    lists.write_parquet(path)
    return lists["item_id"].list.len().max()


def make_module(stage, path, metadata, schema):
    """The data of one stage, shuffled for training."""
    config = {"partition_size": 200 * USERS}
    if stage == "train":
        config["generator"] = torch.default_generator
    return ParquetModule(
        batch_size=USERS,
        metadata={stage: metadata},
        transforms={stage: make_default_sasrec_transforms(schema)[stage]},
        config={stage: config},
        **{f"{stage}_path": str(path)},
    )


def main():
    args = parse_arguments()
    torch.set_num_threads(THREADS)
    likes = read_likes(args)
    events = pl.from_pandas(likes[["user_id", "item_id", "timestamp"]])
    encoder = LabelEncoder([LabelEncodingRule("user_id"), LabelEncodingRule("item_id")])
    encoder.fit(events)
    codes = encoder.mapping["item_id"]
    schema = make_schema(len(codes))
    padded = {"padding": len(codes)}
    seen_filter = SeenItemsFilter(item_count=len(codes))
    model = SasRec.from_params(
        schema,
        embedding_dim=SIZES["embedding_dim"],
        num_heads=SIZES["n_heads"],
        num_blocks=SIZES["n_layers"],
        max_sequence_length=LENGTH,
        dropout=SIZES["dropout"],
    )
    module = LightningModule(model, OptimizerFactory("adam", learning_rate=SIZES["learning_rate"]))
    clock = epoch_clock(
        lightning.Callback,
        lambda batch: (len(batch["padding_mask"]), int(batch["target_padding_mask"].sum())),
    )

    def fit(folder):
        write_sequences(encoder, events, folder / "train.parquet")
        metadata = {"item_id": {"shape": LENGTH + 1, **padded}}
        data = make_module("train", folder / "train.parquet", metadata, schema)
        trainer = make_trainer(
            max_epochs=args.epochs, precision=args.precision, callbacks=[clock], limit_val_batches=0
        )
        trainer.fit(module, data)

    def recommend(folder):
        longest = write_sequences(encoder, events, folder / "predict.parquet")
        metadata = {
            "user_id": {},
            "item_id": {"shape": LENGTH, **padded},
            "seen_ids": {"shape": longest, **padded},
        }
        data = make_module("predict", folder / "predict.parquet", metadata, schema)
        top = PolarsTopItemsCallback(K, "user_id", "item_id", postprocessors=[seen_filter])
        make_trainer(callbacks=[top]).predict(module, data, return_predictions=False)
        return encoder.inverse_transform(top.get_result())

    with tempfile.TemporaryDirectory() as folder:
        fitted = time_fit(lambda: fit(Path(folder)))
        trained = clock.result()
        served = time_all(lambda: recommend(Path(folder)), likes["user_id"].nunique())

    item_ids = np.array(sorted(codes, key=codes.get))

    def recommender(score):
        def recommend_one(history):
            known = torch.tensor([codes[item] for item in history])
            items = torch.full((1, LENGTH), len(codes))
            last = known[-LENGTH:]
            items[0, LENGTH - len(last) :] = last
            logits = score({"item_id": items}, items != len(codes))
            logits = seen_filter.on_prediction({"seen_ids": known[None]}, logits)
            return item_ids[torch.topk(logits, K).indices[0].numpy()]

        return recommend_one

    histories = [one["item_id"].tolist() for one in split_by_user(likes)]
    calls = {}
    model.eval()
    with torch.inference_mode():
        score = recommender(lambda items, mask: model(items, mask)["logits"])
        calls["forward"] = time_calls(score, histories, args.calls)
    compiled = compile_model(schema)
    if compiled is not None:
        score = recommender(
            lambda items, mask: compiled.predict({"feature_tensor": items, "padding_mask": mask})
        )
        calls["compiled, older SasRec"] = time_calls(score, histories, args.calls)
    report(
        ("replay-rec", "torch", "lightning", "numpy", "polars"),
        **trained,
        **fitted,
        **served,
        calls=calls,
    )


def compile_model(schema):
    """Compile the older `SasRec` of the same sizes, or return None without its packages."""
    with contextlib.suppress(ImportError):
        from replay.models.nn.sequential import SasRec as OlderSasRec
        from replay.models.nn.sequential.compiled import SasRecCompiled

        model = OlderSasRec(
            schema,
            block_count=SIZES["n_layers"],
            head_count=SIZES["n_heads"],
            hidden_size=SIZES["embedding_dim"],
            max_seq_len=LENGTH,
            dropout_rate=SIZES["dropout"],
        )
        return SasRecCompiled.compile(model.eval(), mode="one_query", num_threads=THREADS)


if __name__ == "__main__":
    main()
