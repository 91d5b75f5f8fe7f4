"""Products and functions of arrays that take the threads and the warnings of nobody.

What answers a request multiplies here, not with ``@``: see :func:`product`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from posneg_rec.progress import Watch

__all__ = [
    "affine",
    "for_each",
    "log_sigmoid",
    "product",
    "quietly",
    "raised",
    "row_sums",
    "sigmoid",
    "solve",
    "standardised",
]

Array = NDArray[np.float32]

# For a product of so many multiplications OpenBLAS starts no threads.
_SMALL_PRODUCT = 2**18
# For a system of so many unknowns LAPACK starts none.
_SMALL_SYSTEM = 96

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Job = TypeVar("_Job")
_Floats = TypeVar("_Floats", bound=np.floating[Any])


@functools.cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # which one history never needs

    return ThreadpoolController().select(user_api="blas")


def _n_threads() -> int:
    """Tell how many threads BLAS would take for a large product, as the caller limited them."""
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


def for_each(
    function: Callable[[_Job], None], jobs: Sequence[_Job], watch: Watch | None = None
) -> None:
    """Call a function with each job, on as many threads as one matrix product would take."""

    def go_through(done: Iterable[None]) -> None:
        for _ in done if watch is None else watch(done, len(jobs)):
            pass

    n_threads = min(_n_threads(), len(jobs)) if len(jobs) > 1 else 1
    if n_threads == 1:
        go_through(map(function, jobs))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            go_through(pool.map(function, jobs))


def product(a: NDArray[_Floats], b: NDArray[_Floats]) -> NDArray[_Floats]:
    """Return ``a @ b``, (..., m, n), made of products that are too small for BLAS to share out.

    Threads that meet after each small product spend more time on meeting than on the product, and
    on a machine with other work they wait for each other a hundred times as long. To limit their
    number would change it for the whole process; small products, which NumPy multiplies in one
    call, take no longer than a large one.
    """
    m, k, n = *a.shape[-2:], b.shape[-1]
    if m == 1:  # a vector times a matrix is shared out much earlier than two of them
        return product(np.repeat(a, 2, axis=-2), b)[..., :1, :]
    if m * k * n <= _SMALL_PRODUCT:
        return a @ b
    n_columns = min(n, max(16, _SMALL_PRODUCT // (16 * max(1, k))))
    most = max(2, _SMALL_PRODUCT // max(1, k * n_columns))
    n_rows = next((rows for rows in range(most, most // 2, -1) if m % rows == 0), most)
    n_pieces = m // n_rows
    whole = n_pieces * n_rows
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.empty((*stack, m, n), dtype=a.dtype)
    pieces = a[..., :whole, :].reshape(*a.shape[:-2], n_pieces, n_rows, k)
    for start in range(0, n, n_columns):
        columns = slice(start, start + n_columns)
        part, found = b[..., columns], out[..., columns]
        into = found[..., :whole, :].reshape(*stack, n_pieces, n_rows, part.shape[-1])  # a view
        np.matmul(pieces, part[..., None, :, :], out=into)
        if whole < m:
            found[..., whole:, :] = product(a[..., whole:, :], part)
    return out


def solve(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Solve ``a x = b``, (..., n, m), for positive definite ``a``, (..., n, n).

    By blocks for which LAPACK starts no threads, as in :func:`product`: threads for systems of a
    few hundred unknowns took eight times the processor time on an idle machine, seventy times on
    a busy one.
    """
    n, m = b.shape[-2:]
    if n <= _SMALL_SYSTEM:
        x: NDArray[Any] = np.linalg.solve(a, b)
        return x
    h = n // 2
    below, rest = a[..., h:, :h], a[..., h:, h:]
    solved = solve(a[..., :h, :h], np.concatenate([a[..., :h, h:], b[..., :h, :]], axis=-1))
    across, first = solved[..., :-m], solved[..., -m:]
    second = solve(rest - product(below, across), b[..., h:, :] - product(below, first))
    return np.concatenate([first - product(across, second), second], axis=-2)


def standardised(x: Array) -> Array:
    """Bring the last axis to mean 0 and variance 1, as a layer norm does before scale and shift."""
    share = np.float32(1 / x.shape[-1])
    centred: Array = x - row_sums(x) * share
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] * share
    centred *= 1 / np.sqrt(variance + np.float32(1e-5))
    return centred


def row_sums(x: Array) -> Array:
    """Return ``x.sum(-1, keepdims=True)``: of short rows, in a third of its time."""
    sums: Array = np.einsum("...i->...", x)[..., None]
    return sums


def log_sigmoid(x: Array) -> Array:
    """Turn logits into log probabilities, in place."""
    # min(x, 0) - log(1 + exp(-|x|)), by functions that NumPy has vectorised.
    rest = np.abs(x)
    np.exp(np.negative(rest, out=rest), out=rest)
    rest += 1
    np.minimum(x, 0, out=x)
    x -= np.log(rest, out=rest)
    return x


def affine(x: Array, matrix: Array, bias: Array) -> Array:
    """Return ``x @ matrix + bias``."""
    y = product(x, matrix)
    y += bias
    return y


def sigmoid(x: Array) -> Array:
    """Turn logits into probabilities, small ones as exactly as large ones."""
    y: Array = np.negative(x)
    np.minimum(y, np.float32(80), out=y)  # the exponential of more is infinite
    np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


def raised(x: Array) -> Array:
    """Return ``1 + tanh(x)``, which is ``2 sigmoid(2 x)``, in place."""
    np.tanh(x, out=x)
    x += 1
    return x


def quietly(function: _Function) -> _Function:
    """Let tiny numbers become 0, whatever the caller's ``np.errstate`` says."""
    return np.errstate(under="ignore")(function)
