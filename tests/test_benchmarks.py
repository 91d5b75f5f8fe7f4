"""What the scripts under `examples/benchmarks` measure is what their pages say it is."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "examples" / "benchmarks"))
import compiled_block
import gpu
import imports
import parts
import training_step

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.sequences import Histories

SIZES = {"users": 20, "dim": 16, "dropout": 0.1}


def test_the_padded_step_has_the_loss_of_the_packed_one():
    padded, packed = training_step.losses_of_both(SIZES)
    assert packed == pytest.approx(padded, rel=1e-5)


@pytest.mark.parametrize(("label", "read"), [("PNFRec, published", 2 + 50), ("defaults", 2 + 59)])
def test_an_epoch_reads_each_event_but_the_last_of_a_sequence_up_to_its_window(label, read):
    params, kind = gpu.KINDS[label]
    signs = np.array([1, 1, 1, *[-1] * 60], dtype=np.int8)
    histories = Histories(
        users=np.arange(2),
        items=np.arange(63),
        signs=signs,
        times=None,
        rows=np.arange(63),
        offsets=np.array([0, 3, 63]),
    )
    settings = training_step.settings_of(ContrastiveSeqRecommender(**params, device="cpu"))
    assert gpu.work_of_epoch(kind(histories, settings))[0] == read


@pytest.mark.parametrize("with_memory", [False, True])
def test_both_scorers_of_the_gpu_benchmark_find_the_same(with_memory):
    asking, queries = gpu.asked_of(1000, 20, with_memory=with_memory)
    few = queries(30)
    plain = gpu.Scorer(queries=few, **asking).top_k(10)[0]
    fast = gpu.AcceleratedScorer(queries=few, **asking, device="cpu").top_k(10)[0]
    assert (plain == fast).mean() > 0.98


def test_the_compiled_block_computes_what_a_block_does(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    generator = torch.Generator().manual_seed(1)
    block, batch = (
        compiled_block.block_of_default(generator),
        compiled_block.batch_of(250, generator),
    )
    forwards = compiled_block.forward_of(dynamic=True), type(block).forward
    found, expected = (compiled_block.once(block, forward, *batch) for forward in forwards)
    assert compiled_block.differences(found, expected) < 0.02


def test_an_import_is_measured_in_a_process_of_its_own():
    seconds, mib = imports.measured("time.sleep(0.2); held = bytearray(2**26)")
    assert seconds >= 0.2 and mib >= 64


@pytest.mark.parametrize("model", list(parts.KINDS))
def test_what_a_step_leaves_to_the_host_is_of_all_its_parts(tmp_path, model):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user_id": np.repeat(np.arange(130), 6)})
    table["item_id"], table["timestamp"] = rng.integers(20, size=780), np.arange(780)
    table["rating"] = rng.integers(1, 6, size=780)
    table.to_parquet(tmp_path / "small.parquet")
    histories = parts.histories_of(tmp_path / "small.parquet", 4)
    assert (histories.signs == 1).sum() == (table["rating"] >= 4).sum()
    row = parts.row_of("small", histories, model)
    assert row["steps an epoch"] == (3 if model == "defaults" else 1)
    assert 1 <= row["shapes"] <= 3 * row["steps an epoch"] and row["host, ms a step"] > 0
