"""A fit shared out to several processes: what they tell each other.

Where ``torch.distributed`` is initialised, all its processes make one fit of the same rows: each
takes its share of every batch, and what they take together (gradients, the log, ranks of the
validation events, the decision to stop) is the same on all of them. Elsewhere a fit has one
process, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "Place",
    "check_alike",
    "from_first",
    "gathered",
    "place",
    "sum_gradients",
    "summed",
]

_T = TypeVar("_T")


class Place(NamedTuple):
    """Which of the processes this one is."""

    rank: int
    n_processes: int


def place() -> Place:
    """Tell which of the processes of a fit this one is."""
    if dist.is_available() and dist.is_initialized():
        return Place(dist.get_rank(), dist.get_world_size())
    return Place(0, 1)


@contextmanager
def _together() -> Iterator[None]:
    """Say what it means if the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        rank, n_processes = place()
        raise RuntimeError(
            f"Process {rank} of the {n_processes} of this fit got no answer from the others: one "
            "of them failed or ended (its own error says why), passed other arguments, or took "
            f"longer than the timeout of init_process_group ({error!s:.200})."
        ) from error


def gathered(value: _T) -> list[_T]:
    """Return the values of all processes, by rank."""
    n_processes = place().n_processes
    if n_processes == 1:
        return [value]
    values: list[Any] = [None] * n_processes
    with _together():
        dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], _T]) -> _T:
    """Let the first process make something for all; its error is that of all."""
    rank, n_processes = place()
    if n_processes == 1:
        return make()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = make()
        except Exception as failure:
            answer[1] = failure
    with _together():
        dist.broadcast_object_list(answer, src=0)
    value, error = answer
    if error is not None:
        raise error
    return value


def check_alike(described: Mapping[str, Any]) -> None:
    """Check that all processes fit the same, and tell all of them if not.

    Raises
    ------
    ValueError
        If a value of one differs from that of the first.
    """
    first, *others = gathered(dict(described))
    differences = [
        f"{name}={first[name]!r:.50} in process 0, {other[name]!r:.50} in process {rank}"
        for rank, other in enumerate(others, start=1)
        for name in first
        if first[name] != other[name]
    ]
    if differences:
        raise ValueError(
            "torch.distributed is initialised, so its processes make one fit together, but they "
            f"do not fit the same: {'; '.join(differences[:3])}. Pass all rows and the same "
            "parameters in each process; each takes its share of them."
        )


def summed(values: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if place().n_processes > 1:
        with _together():
            dist.all_reduce(values)
    return values


def sum_gradients(model: nn.Module, sparse: Collection[str]) -> None:
    """Add up the gradients over all processes; what no process has a gradient of has none.

    Parameters
    ----------
    model : module
    sparse : collection of str
        Names of the parameters whose gradients are sparse and stay so.
    """
    if place().n_processes == 1:
        return
    dense: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name in sparse:
            parameter.grad = _sparse_sum(parameter)
        else:
            dense.append(parameter)
    if not dense:
        return
    # All in one message, and which are there at its end.
    there = torch.tensor([float(p.grad is not None) for p in dense]).to(dense[0])
    flat = summed(torch.cat([*(_dense_gradient(p).reshape(-1) for p in dense), there]))
    *parts, met = flat.split([*(p.numel() for p in dense), len(dense)])
    for parameter, part, is_there in zip(dense, parts, met.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if is_there else None


def _dense_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def _sparse_sum(parameter: nn.Parameter) -> Tensor | None:
    """Bring the rows of all processes together."""
    grad = parameter.grad
    rows = torch.empty(0, dtype=torch.int64, device=parameter.device)
    values = parameter.new_empty(0, *parameter.shape[1:])
    if grad is not None:
        grad = grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
    counts = gathered(len(rows))
    most = max(counts)
    if not most:
        return grad
    padded_rows, padded_values = rows.new_zeros(most), values.new_zeros(most, *values.shape[1:])
    padded_rows[: len(rows)], padded_values[: len(rows)] = rows, values
    of_rows = [torch.empty_like(padded_rows) for _ in counts]
    of_values = [torch.empty_like(padded_values) for _ in counts]
    with _together():
        dist.all_gather(of_rows, padded_rows)
        dist.all_gather(of_values, padded_values)
    pairs = list(zip(counts, of_rows, of_values, strict=True))
    return torch.sparse_coo_tensor(
        torch.cat([own[:count] for count, own, _ in pairs])[None],
        torch.cat([own[:count] for count, _, own in pairs]),
        parameter.shape,
        check_invariants=False,
    ).coalesce()
