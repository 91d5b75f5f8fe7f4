"""One training step of the paper's model: packed and fused, against the plain padded layout.

    python examples/benchmarks/training_step.py [--json FILE] [--quick]

The step has the sizes of the published settings on MovieLens-1M: 500 users, at most 50 liked and
50 disliked events of each (36,000 in all), 3,417 items, d 232, two blocks for each sign, loss
``CE_p + a CE_n + b L_c``. Four layouts run, each in a process of its own:

- ``padded float32``: every sequence padded to 50, all logits kept, torch's own operations;
- ``packed float32`` and ``packed bfloat16``: what ``fit`` does;
- ``products bfloat16`` and ``products float32``: nothing but the matrix products of the packed
  step, the floor that no arrangement of the rest can pass.

All run in turn, three times; the best median counts, for a shared machine has slow phases. The
padded step is checked to have the loss of the packed one.
"""

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from common import in_subprocess, peak_rss_mib, print_table, write_json

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.objectives import PNFRecObjective
from posneg_rec.recommender import PNFREC
from posneg_rec.sequences import Histories
from posneg_rec.training import Settings, train

N_ITEMS, LENGTH = 3417, PNFREC["max_len"]
A, B = PNFREC["negative_weight"], PNFREC["contrastive_weight"]
N_STEPS = 12  # of an epoch, which has no fewer
N_ROUNDS = 3


def make_histories(n_users, rng):
    """Users with 10 to 51 liked events and 0 to 51 disliked ones, 48 and 24 a user to learn."""
    n_liked = np.minimum(LENGTH + 1, rng.integers(10, 220, n_users))
    n_disliked = np.minimum(LENGTH + 1, rng.geometric(1 / 34, n_users))
    lengths = n_liked + n_disliked
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    signs = np.concatenate(
        [rng.permutation(np.repeat([1, -1], n)) for n in zip(n_liked, n_disliked, strict=True)]
    ).astype(np.int8)
    # Popularity falls as in real catalogues.
    items = np.minimum(rng.zipf(1.2, len(signs)), 10**9) * 7919 % N_ITEMS
    return Histories(
        users=np.arange(n_users),
        items=items.astype(np.int64),
        signs=signs,
        times=None,
        rows=np.arange(len(items)),
        offsets=offsets,
    )


def settings_of(estimator):
    """What the estimator's fit would train with."""
    params = estimator.get_params()
    return Settings(**{name: params[name] for name in Settings.__dataclass_fields__})


def make_settings(sizes, precision):
    paper = PNFREC | {"embedding_dim": sizes["dim"], "dropout": sizes["dropout"]}
    step = {"batch_size": sizes["users"], "device": "cpu", "precision": precision}
    return settings_of(ContrastiveSeqRecommender(**paper | step))


def seconds_of_steps(objective, n_items, settings, rng):
    """Train two epochs; return the seconds from each step of the second to the next, and its log.

    In the first one torch makes its kernels, one for each shape of a product.
    """
    starts, parts = [], objective.parts

    def timed_parts(*arguments):
        starts.append(time.perf_counter())
        return parts(*arguments)

    objective.parts = timed_parts
    _, (_, log) = train(objective, n_items, replace(settings, max_epochs=2), rng=rng)
    return np.diff(starts[len(starts) // 2 :]), log


# ------------------------------------------------------------------------------ padded twin


def sides(objective):
    """The liked and the disliked events of all users."""
    events = objective.read(np.arange(len(objective.histories)))
    return events.liked, events.disliked


def n_tokens(sequences, max_len):
    """How many events are read to predict the next."""
    return int(np.minimum(np.maximum(sequences.lengths - 1, 0), max_len).sum())


def pad(sequences):
    """Inputs and targets (U, 50), padded to the right, and which targets are real."""
    lists = [np.asarray(values)[-LENGTH - 1 :] for values in sequences.to_lists()]
    inputs, targets = np.zeros((2, len(lists), LENGTH), dtype=np.int64)
    filled = np.zeros((len(lists), LENGTH), dtype=bool)
    for row, values in enumerate(lists):
        n = max(0, len(values) - 1)
        inputs[row, :n], targets[row, :n], filled[row, :n] = values[:-1], values[1:], True
    return [torch.from_numpy(array) for array in (inputs, targets, filled)]


def padded_encode(model, encoder, inputs, filled, dropout):
    x = model.items().embed(inputs.flatten()).unflatten(0, inputs.shape)  # (U, L, d)
    ages = (filled.sum(1, keepdim=True) - 1 - torch.arange(LENGTH)).clamp_min(0)
    x = F.dropout(x + F.embedding(ages, encoder.position_embedding), dropout)
    for block in encoder.blocks:
        q, k, v = block.attention_in(block.attention_norm(x)).chunk(3, -1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(block.attention_out(attended), dropout)
        inner = F.relu(block.feedforward_in(block.feedforward_norm(x)))
        x = x + F.dropout(block.feedforward_out(inner), dropout)
    return encoder.norm(x)


def padded_loss(model, liked, disliked, dropout):
    embedding = model.item_embedding
    losses, hidden = [], None
    for encoder, (inputs, targets, filled) in (
        (model.negative, disliked),
        (model.positive, liked),
    ):
        hidden = padded_encode(model, encoder, inputs, filled, dropout)
        logits = hidden @ embedding.T  # (U, L, N)
        targets = targets.masked_fill(~filled, -100)
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    negatives, _, counted = disliked
    _, targets, filled = liked
    others = torch.einsum("uld,umd->ulm", hidden, F.embedding(negatives, embedding))
    hidden_items = ~counted[:, None, :] | (negatives[:, None, :] == targets[:, :, None])
    own = (hidden * F.embedding(targets, embedding)).sum(-1, keepdim=True)
    logits = torch.cat([own, others.masked_fill(hidden_items, -torch.inf)], -1)  # (U, L, 1 + M)
    contrast = (logits.logsumexp(-1) - own.squeeze(-1))[filled].mean()
    return losses[1] + A * losses[0] + B * contrast


def padded_steps(objective, sizes):
    model = objective.model(N_ITEMS, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    liked, disliked = map(pad, sides(objective))
    seconds = []
    for _ in range(N_STEPS):
        start = time.perf_counter()
        loss = padded_loss(model, liked, disliked, sizes["dropout"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def losses_of_both(sizes):
    """The loss of one batch in the padded and in the packed layout, without dropout."""
    histories = make_histories(sizes["users"], np.random.default_rng(0))
    objective = PNFRecObjective(histories, make_settings(sizes, "float32"))
    model = objective.model(N_ITEMS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        padded = padded_loss(model, *map(pad, sides(objective)), 0)
        users = np.arange(sizes["users"])
        parts = objective.parts(model, users, np.random.default_rng(0))
        packed = sum(float(objective.losses(model, part, None)[0]) for part in parts)
    return float(padded), packed


# --------------------------------------------------------------------------------- products


def products_of_step(objective, sizes, dtype):
    """Seconds of the matrix products alone: each layer's three, and the softmax's three."""
    dim = sizes["dim"]
    shapes = []
    for side in sides(objective):
        n = n_tokens(side, LENGTH)
        for width in (3 * dim, dim, dim, dim):  # attention in and out, feed-forward in and out
            shapes += 2 * [(n, dim, width), (n, width, dim), (dim, n, width)]
        chunks = n // 512
        softmax = [(512, dim, N_ITEMS), (512, N_ITEMS, dim), (N_ITEMS, 512, dim)]
        shapes += chunks * softmax
    flops = 2 * sum(m * k * n for m, k, n in shapes)
    operands = {
        shape: (torch.ones(shape[:2], dtype=dtype), torch.ones(shape[1:], dtype=dtype))
        for shape in set(shapes)
    }
    seconds = []
    for _ in range(N_STEPS):
        start = time.perf_counter()
        for shape in shapes:
            torch.mm(*operands[shape])
        seconds.append(time.perf_counter() - start)
    return seconds, flops


def run(layout, sizes):
    kind, precision = layout.split()
    rng = np.random.default_rng(0)
    # The packed epoch has several batches of that many users, the others repeat one.
    histories = make_histories(sizes["users"] * (N_STEPS if kind == "packed" else 1), rng)
    objective = PNFRecObjective(histories, make_settings(sizes, precision))
    result = {"layout": layout, "start_mib": peak_rss_mib()}
    if kind == "products":
        seconds, flops = products_of_step(objective, sizes, getattr(torch, precision))
        result["gflop"] = flops / 1e9
    elif kind == "padded":
        seconds = padded_steps(objective, sizes)
    else:
        seconds, _ = seconds_of_steps(objective, N_ITEMS, objective.settings, rng)
    return result | {"seconds": float(np.median(seconds)), "peak_mib": peak_rss_mib()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true", help="fewer users, smaller vectors")
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.layout:
        print(json.dumps(run(options.layout, options.sizes)))
        return
    sizes = {"users": 500, "dim": 232, "dropout": 0.1}
    if options.quick:
        sizes |= {"users": 50, "dim": 32}

    def measure(layout):
        return in_subprocess(__file__, "--layout", layout, "--sizes", json.dumps(sizes))

    padded, packed = losses_of_both(sizes)
    if abs(padded - packed) > 1e-4 * padded:
        sys.exit(f"The padded and the packed step differ: loss {padded} and {packed}.")

    precisions = ("float32", "bfloat16")
    layouts = ["padded float32"] + [f"{k} {p}" for k in ("packed", "products") for p in precisions]
    rounds = [[measure(layout) for layout in layouts] for _ in range(N_ROUNDS)]
    rows = [min(row, key=lambda one: one["seconds"]) for row in zip(*rounds, strict=True)]
    rows, floors = rows[:3], dict(zip(precisions, rows[3:], strict=True))
    table = [
        {
            "layout": row["layout"],
            "seconds a step": row["seconds"],
            "times faster than padded": rows[0]["seconds"] / row["seconds"],
            "times its products": row["seconds"] / floors[row["layout"].split()[1]]["seconds"],
            "peak MiB": row["peak_mib"],
            "MiB before the first step": row["start_mib"],
        }
        for row in rows
    ]
    print_table(table)
    for precision, floor in floors.items():
        speed = floor["gflop"] / floor["seconds"]
        print(f"products in {precision}: {floor['seconds']:.3f} s, {speed:.0f} GFLOP/s")
    print(f"loss without dropout: padded {padded:.5f}, packed {packed:.5f}")
    if options.json:
        write_json(
            options.json,
            {"sizes": sizes, "n_items": N_ITEMS, "layouts": table, "products": floors},
        )


if __name__ == "__main__":
    main()
