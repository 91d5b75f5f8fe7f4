"""What a step on a device leaves to the host: how many shapes its parts have, and making them.

    python examples/benchmarks/parts.py --data ml-1m.parquet amazon-beauty.parquet \
        --thresholds 4 5 --json parts.json

Of each data set (a file with the columns user_id, item_id, rating and timestamp; a rating from its
threshold on is a like) three epochs of batches are cut into parts, as for a CUDA device,
but for torch's device "meta", whose tensors hold no numbers: no GPU is needed, and what is timed is
the host's work alone, copies left out. "shapes" are those that differ; a step is recorded once for
each of them. It takes an otherwise idle machine.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import print_table, write_json
from gpu import KINDS
from paper_protocol import COLUMNS, read_ratings
from training_step import settings_of

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.objectives import JointObjective
from posneg_rec.recording import shape_of
from posneg_rec.sequences import gap_edges

N_EPOCHS = 3


def histories_of(path, threshold):
    table = read_ratings(str(path))
    events = read_interactions(table[COLUMNS], table["rating"], positive_threshold=threshold)
    return build_histories(events, ItemVocabulary.from_ids(events.item_ids))


def row_of(name, histories, model):
    params, kind = KINDS[model]
    settings = settings_of(ContrastiveSeqRecommender(**params))
    edges = {"gap_edges": gap_edges(histories.gaps())} if kind is JointObjective else {}
    objective, rng = kind(histories, settings, **edges), np.random.default_rng(0)
    n_items = int(histories.items.max()) + 1
    module = objective.model(n_items, torch.Generator().manual_seed(0)).to("meta")
    users = objective.trainable_users()
    n_batches = -(-len(users) // settings.batch_size)
    shapes, milliseconds = set(), []
    for _ in range(N_EPOCHS):
        for batch in np.array_split(rng.permutation(users), n_batches):
            start = time.perf_counter()
            parts = list(objective.parts(module, batch, rng))
            milliseconds.append(1e3 * (time.perf_counter() - start))
            shapes |= {shape_of(part) for part in parts}
    return {
        "data": name,
        "model": model,
        "steps an epoch": n_batches,
        "shapes": len(shapes),
        "host, ms a step": float(np.median(milliseconds)),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", metavar="FILE", required=True)
    parser.add_argument("--thresholds", nargs="+", type=float, metavar="RATING", required=True)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    if len(options.data) != len(options.thresholds):
        parser.error("--thresholds needs one number for each file of --data.")
    rows = [
        row_of(Path(path).stem, histories, model)
        for path, threshold in zip(options.data, options.thresholds, strict=True)
        for histories in [histories_of(path, threshold)]
        for model in KINDS
    ]
    print_table(rows)
    if options.json:
        write_json(options.json, {"n_epochs": N_EPOCHS, "rows": rows})


if __name__ == "__main__":
    main()
