"""A block of the default model, forward and back, with what stands between its products compiled.

    python examples/benchmarks/compiled_block.py --json compiled_block.json

Attention stays as it is; norms, casts, gates, dropout and sums before and after it go through
``torch.compile``, once for each number of positions or once for all of them ("symbolic"). Nothing
is taken from a cache. The layouts take turns at the same batch, the best of many runs counts, and
outputs and gradients are checked to be alike. It needs a C++ compiler.
"""

import argparse
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F
from common import print_table, timed, write_json

from posneg_rec.nn import AttentionBias, Ragged, _Block, attention_plan, dropout, packed_attention
from posneg_rec.parameters import DEFAULTS

DIM, N_HEADS, MAX_LEN, RATE = (
    DEFAULTS[name] for name in ("embedding_dim", "n_heads", "max_len", "dropout")
)
POSITIONS = (512, 2048, 6144)
N_RUNS = 30


def normed_product(x, norm_weight, norm_bias, weight, bias):
    return F.linear(F.layer_norm(x, x.shape[1:], norm_weight, norm_bias), weight, bias)


def after_attention(x, attended, gate, kept, kept_inner, *parameters):
    weight, bias, *inner, outer_weight, outer_bias = parameters
    x = x + (F.linear(attended * gate.sigmoid(), weight, bias) * kept).to(x)
    u, v = normed_product(x, *inner).chunk(2, 1)
    return x + (F.linear(F.silu(u) * v, outer_weight, outer_bias) * kept_inner).to(x)


def forward_of(dynamic):
    """The forward pass of a block whose two stretches beside attention are compiled."""
    before = torch.compile(normed_product, dynamic=dynamic, fullgraph=True)
    after = torch.compile(after_attention, dynamic=dynamic, fullgraph=True)

    def forward(block, x, plan, generator):
        distance, gap, *parameters = block.parameters()  # its layers' in the order of their use
        qkv, gate = before(x, *parameters[:4]).split([3 * DIM, DIM], 1)
        bias = AttentionBias(distance, gap)
        attended = packed_attention(qkv.unflatten(1, (3, N_HEADS, -1)), plan, bias).flatten(1)
        # A compiled function draws from no generator.
        ones = torch.ones_like(attended)
        kept, kept_inner = (dropout(ones, RATE, generator) for _ in range(2))
        return after(x, attended, gate, kept, kept_inner, *parameters[4:])

    return forward


def block_of_default(generator):
    block = _Block(DIM, N_HEADS, RATE, gated=True, bias_len=MAX_LEN)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return block


def batch_of(n_positions, generator):
    """Inputs of users with as many events as a window has, and how they are attended."""
    offsets = torch.tensor([*range(0, n_positions, MAX_LEN), n_positions])
    sequences = Ragged.of(offsets, torch.device("cpu"))
    plan = attention_plan(sequences, N_HEADS, torch.bfloat16, DIM // N_HEADS, padded=True)
    return torch.randn(n_positions, DIM, generator=generator, requires_grad=True), plan


def once(block, forward, x, plan):
    """Go forward and back; return the output and the gradients of the block."""
    block.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = forward(block, x, plan, torch.Generator().manual_seed(0))
    torch.clear_autocast_cache()
    out.square().sum().backward()
    return out.detach(), [p.grad for p in block.parameters()]


def differences(found, expected):
    """How far outputs and gradients lie apart, by the size of what is expected."""
    pairs = zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True)
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in pairs)


def rows_of(block, forwards, n_positions, generator):
    x, plan = batch_of(n_positions, generator)
    runs = {name: partial(once, block, forward, x, plan) for name, forward in forwards.items()}
    expected, first = runs["as it is"](), {}
    for name, run in runs.items():
        start = time.perf_counter()
        found = run()
        first[name] = time.perf_counter() - start
        if (apart := differences(found, expected)) > 0.02:
            sys.exit(f"{name} is not the same at {n_positions} positions: {apart:.3f} apart.")
    rounds = [{name: timed(run, 1)[0] for name, run in runs.items()} for _ in range(N_RUNS)]
    best = {name: min(seconds[name] for seconds in rounds) for name in runs}
    return [
        {
            "positions": n_positions,
            "between the products": name,
            "ms": 1e3 * best[name],
            "of the time as it is": best[name] / best["as it is"],
            "compiling, s": None if name == "as it is" else first[name],
        }
        for name in runs
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.compiler.config.force_disable_caches = True
    generator = torch.Generator().manual_seed(0)
    block, symbolic, rows = block_of_default(generator), forward_of(True), []
    for n_positions in POSITIONS:
        forwards = {"as it is": _Block.forward, "a shape": forward_of(False), "symbolic": symbolic}
        rows += rows_of(block, forwards, n_positions, generator)
    print_table(rows)
    if args.json:
        write_json(args.json, {"sizes": {"dim": DIM, "heads": N_HEADS}, "rows": rows})


if __name__ == "__main__":
    main()
