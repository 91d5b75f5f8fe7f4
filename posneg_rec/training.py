"""One loop from an objective to trained weights: settings, optimisers, averages, early stopping.

Arrays go in, a flat dictionary of NumPy arrays comes out; torch modules, devices and optimisers
live and die inside :func:`train`.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from posneg_rec.checkpoint import Arrays, Checkpoint, State
from posneg_rec.distributed import from_first, gathered, place, sum_gradients, summed
from posneg_rec.momentum import Momentum
from posneg_rec.nn import ITEM_PARAMETERS
from posneg_rec.recording import Recorder, cuda_graphs

__all__ = [
    "WHOLE",
    "EpochLog",
    "Objective",
    "Settings",
    "Share",
    "resolve_device",
    "resolve_precision",
    "train",
]

Weights = dict[str, NDArray[np.float32]]

# With fewer users than that batches are smaller, for an epoch of so many steps: patience counts
# epochs.
_FEW_USERS, _MIN_STEPS = 2000, 32
# Numbers in the states of a step, up to which one thread trains: more would save a third of the
# time at best, and beside other work they wait for each other twenty times as long.
_SMALL_STEP = 2**19
# What either Adam remembers of each parameter, beside the number of its steps.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Settings:
    """How to train; the estimator's constructor documents each."""

    embedding_dim: int
    n_layers: int
    n_heads: int
    max_len: int
    dropout: float
    negative_weight: float
    contrastive_weight: float
    contrastive_similarity: Literal["dot", "cosine"]
    contrastive_negatives: Literal["window", "past"]
    temperature: float
    windows: Literal["recent", "random"]
    n_negatives: int | None
    learning_rate: float
    ema_decay: float
    batch_size: int
    max_epochs: int
    n_iter_no_change: int
    device: str
    precision: str


@dataclass(frozen=True)
class EpochLog:
    """What one epoch brought.

    ``losses`` holds the means over the batches, in nats: "loss", the total, and each term of the
    objective. ``validation_score`` is None without validation.
    """

    epoch: int
    losses: dict[str, float]
    validation_score: float | None
    seconds: float


class Share(NamedTuple):
    """Which of a batch's users go through the model at a time and place: one of so many.

    ``draws`` is where the randomness comes from that is the share's own; None takes the batch's.
    """

    place: int = 0
    n_shares: int = 1
    draws: np.random.Generator | None = None

    def of(self, n_users: int) -> NDArray[np.int64]:
        """Return positions in the batch, which is in order of length: all shares take as long."""
        return np.arange(self.place, n_users, self.n_shares)


WHOLE = Share()


class Objective(Protocol):
    """What :func:`train` minimises: a model, who can train it, what it reads, and the losses."""

    terms: ClassVar[tuple[str, ...]]

    def model(self, n_items: int, generator: torch.Generator) -> nn.Module:
        """Make the model with its initial values."""

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the positions of the users with at least one target."""

    def n_positions(self) -> int:
        """Count the events that an epoch reads."""

    def parts(
        self,
        model: Any,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        share: Share = ...,
    ) -> Iterator[Any]:
        """Yield what the model reads of each part of a batch of users, made on the host.

        A part is a named tuple of tensors on the model's device, of such tuples, and of what shapes
        are made of. What is drawn from `rng` is drawn for the whole batch, and the same for each
        share of it.
        """

    def losses(self, model: Any, part: Any, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return what a part adds to the loss, to be differentiated, and to each of its terms.

        All are scalars, and those of all parts of all shares add up to those of the batch. Nothing
        here waits for the device, or depends on the values of a part: a device can record it.
        """


def resolve_device(device: str) -> torch.device:
    """Choose where to train: "auto" takes CUDA where it is, else the CPU.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        # Times are told apart in float64, which Apple's graphics processors (MPS) do not have.
        torch.empty(0, dtype=torch.float64, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"device={device!r:.50} is not to be had here ({reason:.200}). Pass device='auto', or "
            "'cpu'."
        ) from None
    return found


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Choose the dtype of the matrix products: bfloat16 where the hardware is fast at it."""
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _bfloat16_is_fast_on_cpu()
    return torch.bfloat16 if fast else torch.float32


@functools.cache
def _bfloat16_is_fast_on_cpu() -> bool:
    """Multiply once in either dtype and compare.

    A processor's flags do not tell: of two with AVX512-BF16, one was measured at 0.6 times
    float32's speed, another at 4.7 times.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, a)
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
    # Casts cost time as well: a small lead is none, and a clear one is found in every process.
    return seconds[torch.float32] > 1.5 * seconds[torch.bfloat16]


def _optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Adam; with sampled negatives a lazy one for the items, which moves only those touched."""
    device = next(model.parameters()).device
    sparse = settings.n_negatives is not None
    items = [p for name, p in model.named_parameters() if sparse and name in ITEM_PARAMETERS]
    others = [p for name, p in model.named_parameters() if not (sparse and name in ITEM_PARAMETERS)]
    fused = device.type in ("cpu", "cuda")
    made: list[torch.optim.Optimizer] = [
        torch.optim.Adam(others, lr=settings.learning_rate, fused=fused)
    ]
    if items:
        made.append(torch.optim.SparseAdam(items, lr=settings.learning_rate))
    return made


class _Average:
    """Exponential moving average of the weights over the steps; decay 0 is the last weights.

    The first steps count for less than the decay says, or the initial values would linger. Each
    row of a sparse gradient counts its own steps, so that a rare item does not lag behind.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.n_steps = 0
        self.n_touched: dict[str, Tensor] = {}
        named = model.named_parameters()
        self.values = {name: p.detach().clone() for name, p in named} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights after a step, whose gradients are still there."""
        if not self.decay:
            return
        self.n_steps += 1
        share = max(9 / (self.n_steps + 9), 1 - self.decay)
        averages, parameters = [], []
        for name, parameter in self.model.named_parameters():
            value, grad = self.values[name], parameter.grad
            if grad is None or not grad.is_sparse:
                averages.append(value)
                parameters.append(parameter)
                continue
            rows = grad.coalesce().indices()[0]
            if name not in self.n_touched:
                self.n_touched[name] = value.new_zeros(len(value))
            steps = self.n_touched[name][rows] + 1
            self.n_touched[name][rows] = steps
            own_share = (9.0 / (steps + 9.0)).clamp_min(1 - self.decay)
            own_share = own_share.view(-1, *[1] * (value.ndim - 1))
            value[rows] = value[rows].lerp(parameter[rows], own_share)
        if averages:
            get_ema_multi_avg_fn(1 - share)(averages, parameters, self.n_steps)

    def to_numpy(self) -> Weights:
        """Copy the averaged weights."""
        return _arrays(self.values or dict(self.model.named_parameters()))


def train(
    objective: Objective,
    n_items: int,
    settings: Settings,
    *,
    rng: np.random.Generator,
    initial_weights: Mapping[str, NDArray[np.float32]] | None = None,
    validate: Callable[[Weights, list[EpochLog]], float] | None = None,
    on_epoch: Callable[[list[EpochLog], Callable[[], Weights]], bool] | None = None,
    checkpoint: Checkpoint | None = None,
    momentum: Momentum | None = None,
    on_end: Callable[[Callable[[], Momentum]], None] | None = None,
) -> tuple[Weights, list[EpochLog]]:
    """Minimise an objective; return the best weights and the log of all epochs.

    Parameters
    ----------
    objective : Objective
        One of :data:`objectives.OBJECTIVES`, made of the training part.
    n_items : int
    settings : Settings
    rng : numpy Generator
        The source of everything random: initial values, user order, windows, dropout.
    initial_weights : mapping of str to array, default=None
        Values of all parameters to start from, by name.
    validate : callable, default=None
        Weights and the log so far to a score, greater is better, after each epoch. With it,
        training stops after `settings.n_iter_no_change` epochs without a better score and the
        best weights come back; without it, all `settings.max_epochs` epochs run and the last
        weights do.
    on_epoch : callable, default=None
        Called after each epoch with the log so far and a function that copies the current
        weights; training stops when it returns True.
    checkpoint : Checkpoint, default=None
        Opened; training goes on from what it holds, and writes to it after each epoch.
    momentum : Momentum, default=None
        What an earlier training has left beside `initial_weights`, to go on from; None starts anew.
    on_end : callable, default=None
        Called after the last epoch with a function that copies what a later one can go on from.

    Returns
    -------
    weights : dict of str to float32 array
    history : list of EpochLog
        Empty if no user has a target: there is nothing to learn an order from.

    Raises
    ------
    FloatingPointError
        If the loss or a weight is not finite.
    ValueError
        If the device has no room for the model, or for one user's part of a batch.
    """
    device = resolve_device(settings.device)
    # By size, not by a stopwatch: sums over other shares of the threads round otherwise, and a fit
    # is to repeat.
    positions_a_step = objective.n_positions() / _n_batches(objective, settings)
    one_thread = positions_a_step * settings.embedding_dim < _SMALL_STEP
    with _own_torch_state(device, one_thread=one_thread):
        run = _Run(objective, n_items, settings, device, rng, initial_weights)
        if momentum is not None:
            run.go_on(momentum)
        trained = _train(run, validate, on_epoch, checkpoint)
        if on_end is not None:
            on_end(run.momentum)
        return trained


def _n_batches(objective: Objective, settings: Settings) -> int:
    n_users = len(objective.trainable_users())
    n_batches = -(-n_users // settings.batch_size)
    if n_users < _FEW_USERS:
        n_batches = max(n_batches, min(_MIN_STEPS, n_users))
    return max(1, n_batches)


def _host_as_default() -> AbstractContextManager[Any]:
    host = torch.device("cpu")
    # Only where it is needed: inside this context each call of torch takes longer.
    return nullcontext() if torch.get_default_device() == host else host


@contextmanager
def _own_torch_state(device: torch.device, *, one_thread: bool) -> Iterator[None]:
    """Train the same whatever the caller has switched on or off in torch for this thread."""
    n_threads = torch.get_num_threads()
    try:
        if one_thread and n_threads > 1:
            torch.set_num_threads(1)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            _host_as_default(),
        ):
            yield
    finally:
        if torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)


class _Run:
    """A training between two epochs: all that changes, and how an epoch changes it.

    Parameters
    ----------
    objective, n_items, settings, rng, initial_weights
        As in :func:`train`.
    device : torch.device
    """

    def __init__(
        self,
        objective: Objective,
        n_items: int,
        settings: Settings,
        device: torch.device,
        rng: np.random.Generator,
        initial_weights: Mapping[str, NDArray[np.float32]] | None,
    ) -> None:
        self.objective, self.settings, self.device, self.rng = objective, settings, device, rng
        self.dtype = resolve_precision(settings.precision, device)
        self.users = objective.trainable_users()
        self.n_batches = _n_batches(objective, settings)
        self.place, self.n_shares = place(), 1
        self.seed = seed = int(rng.integers(2**63))
        self.draws = np.random.default_rng(seed)
        try:
            self.model = objective.model(n_items, torch.Generator().manual_seed(seed))
            if initial_weights is not None:
                self.model.load_state_dict(_tensors(initial_weights))
            self.model.to(device)
            self.average = _Average(self.model, settings.ema_decay)
        except RuntimeError as error:  # as torch says that there is not so much memory
            raise ValueError(
                f"There is no room for a model of {n_items} items with embedding_dim="
                f"{settings.embedding_dim}, max_len={settings.max_len} and n_layers="
                f"{settings.n_layers}: lower them."
            ) from error
        self.generator = torch.Generator(device).manual_seed(seed)
        self.gradients_of: Callable[[Any], Tensor] = functools.partial(
            _add_gradients, objective, self.model, self.generator, self.dtype
        )
        if _records(device, settings):
            self.gradients_of = Recorder(
                self.gradients_of, [*self.model.parameters()], self.generator, cuda_graphs()
            )
        self.optimizers = _optimizers(self.model, settings)
        self.history: list[EpochLog] = []
        self.best_weights: Weights | None = None
        self.best_score, self.best_epoch = -np.inf, 0
        self.ended = not (len(self.users) and settings.max_epochs)

    def run_epoch(self) -> dict[str, float]:
        """Take one step for each batch; return the means of the losses."""
        settings, epoch = self.settings, len(self.history) + 1
        # Streams of this process and epoch, so that there is none to keep between epochs.
        seeds = [self.seed, epoch, self.place.rank]
        self.draws = np.random.default_rng(seeds)
        if self.place.n_processes > 1:
            self.generator.manual_seed(int(np.random.default_rng(seeds).integers(2**63)))
        # Summed on the device and read once an epoch: reading waits for the device.
        sums = torch.zeros(1 + len(self.objective.terms), dtype=torch.float32, device=self.device)
        sparse = ITEM_PARAMETERS if settings.n_negatives is not None else ()
        for batch in np.array_split(self.rng.permutation(self.users), self.n_batches):
            sums += self._add_gradients(batch)
            sum_gradients(self.model, sparse)
            with _room_for("a step of the optimiser", self.device, settings):
                for optimizer in self.optimizers:
                    optimizer.step()
                self.average.update()
            self.model.zero_grad(set_to_none=True)
        names = ("loss", *self.objective.terms)
        means = dict(zip(names, (summed(sums) / self.n_batches).tolist(), strict=True))
        # The weights too: the last step may have spoilt them without a loss to show it.
        finite = torch.stack([p.isfinite().all() for p in self.model.parameters()]).all()
        if not (np.isfinite(list(means.values())).all() and finite):
            raise FloatingPointError(
                f"Training diverged in epoch {epoch} ({means}). Lower learning_rate (now "
                f"{settings.learning_rate:g}), or pass precision='float32'; with "
                f"contrastive_similarity='cosine' raise temperature (now {settings.temperature:g})."
            )
        return means

    def _add_gradients(self, batch: NDArray[np.int64]) -> Tensor:
        """Add the gradients of this process' users, in as many shares as the memory asks for.

        Returns the sums of the losses.
        """
        rank, n_processes = self.place
        n_users = len(range(rank, len(batch), n_processes))
        before = self.rng.bit_generator.state, self.generator.get_state()
        while True:
            n_shares = min(self.n_shares, max(n_users, 1))
            try:
                total = n_shares * n_processes
                if total == 1:
                    return self._losses(batch)
                # Each share draws for the whole batch, so that it knows the batch's own total.
                sums = torch.zeros((), device=self.device)
                for place in range(rank, total, n_processes):
                    self.rng.bit_generator.state = before[0]
                    sums = sums + self._losses(batch, share=Share(place, total, self.draws))
                return sums
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = f"{error!s:.200}"
            # What the failed attempt held is free here, where its frames are gone.
            self.model.zero_grad(set_to_none=True)
            self.generator.set_state(before[1])
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if n_shares >= n_users:
                raise _no_room("the events of one user", self.device, self.settings, reason)
            self.n_shares = 2 * n_shares
            warnings.warn(
                f"{self.device} has no room for {-(-n_users // n_shares)} users at a time "
                f"({reason}). From now on a batch goes through the model in {self.n_shares} or "
                "more parts, which takes longer. Lower batch_size, max_len or embedding_dim, or "
                "pass n_negatives, if that is too slow.",
                UserWarning,
                stacklevel=9,
            )

    def _losses(self, batch: NDArray[np.int64], **share: Share) -> Tensor:
        sums = torch.zeros(1 + len(self.objective.terms), dtype=torch.float32, device=self.device)
        for part in self.objective.parts(self.model, batch, self.rng, **share):
            sums += self.gradients_of(part)
        return sums

    def score(self, score: float) -> bool:
        """Keep the weights if they are the best so far; tell whether patience is at its end."""
        epoch = len(self.history)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            self.best_weights = self.average.to_numpy()
        return epoch - self.best_epoch >= self.settings.n_iter_no_change

    def state(self) -> State:
        """Take all that changes from epoch to epoch."""
        arrays = {f"average/{name}": value for name, value in self.average.values.items()}
        arrays |= {f"touched/{name}": value for name, value in self.average.n_touched.items()}
        arrays |= {f"model/{name}": value for name, value in self.model.named_parameters()}
        steps: list[list[float | None]] = []
        for i, optimizer in enumerate(self.optimizers):
            states = [optimizer.state.get(p, {}) for p in optimizer.param_groups[0]["params"]]
            steps.append([float(state["step"]) if state else None for state in states])
            for j, state in enumerate(states):
                arrays |= {f"optimizer/{i}/{j}/{key}": state[key] for key in _MOMENTS if state}
        plain = {
            "history": [
                [log.epoch, log.losses, log.validation_score, log.seconds] for log in self.history
            ],
            "best_epoch": self.best_epoch,
            "best_score": self.best_score if self.best_epoch else None,
            "ended": self.ended,
            "rng": self.rng.bit_generator.state,
            "average_steps": self.average.n_steps,
            "optimizer_steps": steps,
            "touched": sorted(self.average.n_touched),
        }
        numpy = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
        numpy |= {f"best/{name}": value for name, value in (self.best_weights or {}).items()}
        return State(plain, numpy | {"generator": self.generator.get_state().numpy()})

    def momentum(self) -> Momentum:
        """Take what a later training goes on from."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        states = {
            names[id(p)]: state
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
        }
        return Momentum(
            model=_arrays(dict(self.model.named_parameters())),
            average=_arrays(self.average.values),
            touched=_arrays(self.average.n_touched),
            moments={
                name: _arrays({key: state[key] for key in _MOMENTS})
                for name, state in states.items()
            },
            steps={name: float(state["step"]) for name, state in states.items()},
            average_steps=self.average.n_steps,
        )

    def go_on(self, momentum: Momentum) -> None:
        """Start from where an earlier training was, whatever the settings of either."""
        self.model.load_state_dict(_tensors(momentum.model))
        # Without an average then, this one starts from its weights, and counts from one.
        averages = _tensors(momentum.average or momentum.model)
        for name, value in self.average.values.items():
            value.copy_(averages[name])
        self.average.n_steps = momentum.average_steps
        for name, counts in _tensors(momentum.touched).items():
            self.average.n_touched[name] = counts.to(self.device)
        names = {id(p): name for name, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            held = optimizer.state_dict()
            for i, p in enumerate(optimizer.param_groups[0]["params"]):
                name = names[id(p)]
                if name in momentum.steps:
                    held["state"][i] = _optimizer_state(
                        optimizer, momentum.moments[name], momentum.steps[name]
                    )
            optimizer.load_state_dict(held)

    def restore(self, plain: dict[str, Any], array: Arrays) -> None:
        """Go on from what :meth:`state` took; what is no such state is any kind of error."""
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}

        def group(prefix: str, names: Iterable[str]) -> Weights:
            return {name: array(f"{prefix}/{name}", "<f4", shapes[name]) for name in names}

        self.model.load_state_dict(_tensors(group("model", shapes)))
        for name, value in _tensors(group("average", self.average.values)).items():
            self.average.values[name].copy_(value)
        for name in plain["touched"]:
            counts = array(f"touched/{name}", "<f4", shapes[name][:1])
            self.average.n_touched[name] = torch.from_numpy(np.array(counts)).to(self.device)
        self.average.n_steps = int(plain["average_steps"])
        numbers = {id(p): name for name, p in self.model.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            held = optimizer.state_dict()
            for j, p in enumerate(optimizer.param_groups[0]["params"]):
                step = plain["optimizer_steps"][i][j]
                if step is None:
                    continue
                shape = shapes[numbers[id(p)]]
                moments = {key: array(f"optimizer/{i}/{j}/{key}", "<f4", shape) for key in _MOMENTS}
                held["state"][j] = _optimizer_state(optimizer, moments, step)
            optimizer.load_state_dict(held)
        names = ("loss", *self.objective.terms)
        self.history = [
            EpochLog(
                int(epoch),
                {name: float(losses[name]) for name in names},
                None if score is None else float(score),
                float(seconds),
            )
            for epoch, losses, score, seconds in plain["history"]
        ]
        self.ended, self.best_epoch = bool(plain["ended"]), int(plain["best_epoch"])
        epochs = [log.epoch for log in self.history]
        if epochs != list(range(1, len(epochs) + 1)) or not 0 <= self.best_epoch <= len(epochs):
            raise ValueError("epochs that do not follow each other")
        if self.best_epoch:
            self.best_score = float(plain["best_score"])
            self.best_weights = {
                name: np.array(value) for name, value in group("best", shapes).items()
            }
        self.rng.bit_generator.state = plain["rng"]
        self.generator.set_state(torch.from_numpy(np.array(array("generator", "|u1", None))))


def _records(device: torch.device, settings: Settings) -> bool:
    # Of drawn items, each batch has other rows, and gradients of these alone.
    return device.type == "cuda" and settings.n_negatives is None


def _add_gradients(
    objective: Objective, model: Any, generator: torch.Generator, dtype: torch.dtype, part: Any
) -> Tensor:
    """Add the gradients of a part of a batch to those of the model; return its losses."""
    with torch.autocast(generator.device.type, dtype, enabled=dtype != torch.float32):
        losses = objective.losses(model, part, generator)
    # Inside another autocast, weights cast before a step would outlive it.
    torch.clear_autocast_cache()
    losses[0].backward()
    return torch.stack([loss.detach().float() for loss in losses])


def _is_out_of_memory(error: Exception) -> bool:
    """Tell it from other errors; only CUDA's has a class of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(error).lower()
    return any(f"{word} memory" in told for word in ("out of", "not enough", "can't allocate"))


def _no_room(what: str, device: torch.device, settings: Settings, reason: str) -> ValueError:
    return ValueError(
        f"There is no room on {device} for {what} with embedding_dim={settings.embedding_dim}, "
        f"max_len={settings.max_len} and n_layers={settings.n_layers} ({reason}). Lower them, pass "
        "n_negatives where there are many items, or another device."
    )


@contextmanager
def _room_for(what: str, device: torch.device, settings: Settings) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _no_room(what, device, settings, f"{error!s:.200}") from error


def _optimizer_state(
    optimizer: torch.optim.Optimizer, moments: Mapping[str, NDArray[np.float32]], step: float
) -> dict[str, Any]:
    is_adam = isinstance(optimizer, torch.optim.Adam)
    return _tensors(moments) | {"step": torch.tensor(float(step)) if is_adam else int(step)}


def _arrays(tensors: Mapping[str, Tensor]) -> Weights:
    return {
        name: value.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, value in tensors.items()
    }


def _tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def _train(
    run: _Run,
    validate: Callable[[Weights, list[EpochLog]], float] | None,
    on_epoch: Callable[[list[EpochLog], Callable[[], Weights]], bool] | None,
    checkpoint: Checkpoint | None,
) -> tuple[Weights, list[EpochLog]]:
    if checkpoint is not None:
        state = from_first(lambda: _resumed(run, checkpoint))
        if run.place.rank:
            run.restore(state.plain, lambda name, *_: state.arrays[name])
    history, average = run.history, run.average
    while not run.ended:
        start = time.perf_counter()
        epoch, means = len(history) + 1, run.run_epoch()
        history.append(EpochLog(epoch, means, None, time.perf_counter() - start))
        score = None if validate is None else validate(average.to_numpy(), history)
        history[-1] = EpochLog(epoch, means, score, time.perf_counter() - start)
        run.ended = bool(epoch >= run.settings.max_epochs)  # NumPy's bool is not JSON
        if score is not None and run.score(score):
            run.ended = True
        stop = on_epoch is not None and on_epoch(history, average.to_numpy)
        if any(gathered(bool(stop))):
            run.ended = True
        if checkpoint is not None:  # what a callback decided, too
            checkpoint.write(run.state(), epoch)
    weights = run.best_weights or average.to_numpy()
    return from_first(lambda: weights), history


def _resumed(run: _Run, checkpoint: Checkpoint) -> State:
    checkpoint.resume(run.restore)
    state = run.state()
    # Whether there is room for it, and the right to write, is better known before the work.
    checkpoint.write(state, 0)
    return state
