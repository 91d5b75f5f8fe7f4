"""Gradients of parts of few shapes on a CUDA device: recorded once, then started by one call.

A step of small batches is hundreds of kernels, each of them shorter than what Python takes to start
it. A CUDA graph starts all of those of a forward and a backward pass at once, over the memory that
it was recorded with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Record = Callable[[Callable[[], Tensor], torch.Generator], tuple[Tensor, Callable[[], None]]]

__all__ = ["Recorder", "cuda_graphs", "leaves", "shape_of"]

# More shapes than that are no few: what they hold in memory would not come back.
_MOST = 32
# Both passes draw the same dropout. Sums in another order differ by much less than that, other
# draws by more.
_TOLERANCE = 0.02
# Numbers, so that each parameter's gradient starts where kernels read several at a time.
_ALIGNMENT = 64


def leaves(part: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples and lists, in order."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple | list):
        for one in part:
            yield from leaves(one)


def shape_of(part: Any) -> Hashable:
    """Return all that two parts must share for one recording: structure, shapes, plain values."""
    if isinstance(part, Tensor):
        return part.dtype, tuple(part.shape)
    if isinstance(part, tuple | list):
        return type(part), tuple(map(shape_of, part))
    return part


def cuda_graphs() -> Record:
    """Make a function that records what another starts on a CUDA device.

    It takes what to record, which is not done then, and the generator of its draws, on the same
    device. It returns what that returned, and a function that does it all anew and in place, with
    the draws that the generator is at. All recordings work in the same memory, one at a time.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(
        run: Callable[[], Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():  # later versions of torch ask for no telling
            warnings.simplefilter("ignore")
            graph.register_generator_state(generator)
        # Other threads of the caller may do on the device what they like meanwhile.
        with (
            torch.cuda.device(generator.device),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            result = run()
        return result, graph.replay

    return record


@dataclass(frozen=True)
class _Recording:
    part: list[Tensor]  # in whose place the next one is copied
    losses: Tensor
    replay: Callable[[], None]
    touched: list[int]  # the parameters that it has gradients of


class Recorder:
    """Adds the gradients of parts to those of the parameters, from a recording where there is one.

    The second part of a shape goes through the model as it is, and then through a recording of it:
    where that does not give the same, or cannot be made, there are no recordings from then on, and
    a warning says so.

    Parameters
    ----------
    add_gradients : callable
        Takes a part (nested tuples of tensors on the device), adds to the gradients of
        `parameters`, and returns a tensor of losses. It waits for nothing, and what it starts
        depends on :func:`shape_of` the part alone.
    parameters : sequence of Parameter
        With dense gradients.
    generator : torch.Generator
        All that `add_gradients` draws from.
    record : callable
        From :func:`cuda_graphs`.
    """

    def __init__(
        self,
        add_gradients: Callable[[Any], Tensor],
        parameters: Sequence[nn.Parameter],
        generator: torch.Generator,
        record: Record,
    ) -> None:
        self._add_gradients, self._parameters = add_gradients, parameters
        self._generator, self._record = generator, record
        self._met: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}
        self._is_on = True
        # Where recordings add to, one array: it is set to 0 at once.
        sizes = [-(-p.numel() // _ALIGNMENT) * _ALIGNMENT for p in parameters]
        self._all = parameters[0].new_zeros(sum(sizes))
        self._gradients = [
            whole[: p.numel()].view_as(p)
            for whole, p in zip(self._all.split(sizes), parameters, strict=True)
        ]

    def __call__(self, part: Any) -> Tensor:
        """Add the gradients of a part; return its losses, which the next call may overwrite."""
        if not self._is_on:
            return self._add_gradients(part)
        shape = shape_of(part)
        if shape in self._recordings:
            return self._replayed(self._recordings[shape], part)
        if shape in self._met and len(self._recordings) < _MOST:
            return self._recorded(shape, part)
        self._met.add(shape)
        losses = self._add_gradients(part)
        self._settle()
        return losses

    def _replayed(self, recording: _Recording, part: Any) -> Tensor:
        for held, new in zip(recording.part, leaves(part), strict=True):
            held.copy_(new)
        self._start(recording.touched)
        recording.replay()
        return recording.losses

    def _start(self, touched: list[int]) -> None:
        """Give the parameters without a gradient one of zeros, where recordings add to."""
        is_first = all(p.grad is None for p in self._parameters)
        if is_first:
            self._all.zero_()
        for i in touched:
            if self._parameters[i].grad is None:
                self._parameters[i].grad = self._gradients[i]
                if not is_first:
                    self._gradients[i].zero_()

    def _settle(self) -> None:
        """Put gradients that were made anew where recordings add to."""
        for p, place in zip(self._parameters, self._gradients, strict=True):
            if p.grad is not None and p.grad is not place:
                p.grad = place.copy_(p.grad)

    def _recorded(self, shape: Hashable, part: Any) -> Tensor:
        parameters, generator = self._parameters, self._generator
        # Those of the batch's earlier parts, apart.
        earlier = {i: grad.clone() for i, grad in self._taken().items()}
        before = generator.get_state()
        losses = self._add_gradients(part)
        after, own, reason = generator.get_state(), self._taken(), None
        try:
            self._start([*own])
            found, replay = self._record(lambda: self._add_gradients(part), generator)
            generator.set_state(before)
            replay()
            pairs = [(self._gradients[i], grad) for i, grad in own.items()]
            if not (_are_alike([(found, losses)]) and _are_alike(pairs)):
                reason = "a recorded step does not give what the step gave"
        except RuntimeError as error:
            reason = f"{error!s:.200}"
        generator.set_state(after)
        self._taken()
        for i, grad in (own | earlier).items():
            both = i in own and i in earlier
            parameters[i].grad = own[i] + grad if both else grad
        if reason is None:
            self._settle()
            self._recordings[shape] = _Recording([*leaves(part)], found, replay, [*own])
            return losses
        self._is_on = False
        self._recordings.clear()
        warnings.warn(
            f"Steps are not recorded on {self._all.device}, so that each of them takes longer to "
            f"start; their results are the same ({reason}).",
            UserWarning,
            stacklevel=12,
        )
        return losses

    def _taken(self) -> dict[int, Tensor]:
        """Take the gradients that there are from their parameters."""
        taken = {}
        for i, p in enumerate(self._parameters):
            if p.grad is not None:
                taken[i], p.grad = p.grad, None
        return taken


def _are_alike(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Tell whether all first ones together are the second but for a little, or these not finite."""
    differences = torch.stack([(found - expected).norm() for found, expected in pairs])
    size = torch.stack([expected.norm() for _, expected in pairs]).norm()
    return bool((differences.norm() <= _TOLERANCE * size) | ~size.isfinite())
