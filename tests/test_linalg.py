"""Products in pieces, and threads that are shared out, beside NumPy's and torch's own."""

import threading
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posneg_rec import linalg

MATRICES = st.tuples(*[st.integers(0, 3) for _ in range(2)], *[st.integers(1, 40)] * 3)


@given(MATRICES, st.integers(1, 300), st.booleans())
def test_products_in_pieces_are_the_product(shape, small, stacked):
    n_stacked, seed, m, k, n = shape
    rng = np.random.default_rng(seed)
    a = rng.integers(-3, 4, (n_stacked, m, k) if stacked else (m, k)).astype(np.float32)
    b = rng.integers(-3, 4, (2, 1, k, n) if stacked and seed else (k, n)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linalg, "_SMALL_PRODUCT", small)
        found = linalg.product(a, b)
    np.testing.assert_array_equal(found, a @ b)


def test_no_product_is_large_enough_for_threads(monkeypatch):
    """What BLAS gets: products of few multiplications, and none of a vector and a matrix."""
    sizes, matmul = [], np.matmul

    def spy(a, b, **options):
        sizes.append((a.shape[-2], a.shape[-2] * a.shape[-1] * b.shape[-1]))
        return matmul(a, b, **options)

    class Spied(np.ndarray):
        def __matmul__(self, other):
            return spy(np.asarray(self), np.asarray(other))

    monkeypatch.setattr(np, "matmul", spy)
    rng = np.random.default_rng(0)
    for m, k, n in [
        (1, 128, 128),
        (100, 128, 256),
        (97, 64, 5000),
        (1024, 128, 128),
        (2, 512, 512),
    ]:
        linalg.product(rng.random((m, k), np.float32).view(Spied), rng.random((k, n), np.float32))
    assert min(rows for rows, _ in sizes) >= 2
    assert max(size for _, size in sizes) <= 2**18


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99))
def test_systems_in_blocks_are_the_system(n, m, n_stacked, seed):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_stacked, n, n))
    a = factors @ factors.transpose(0, 2, 1) + np.eye(n)
    b = rng.normal(size=(n_stacked, n, m))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linalg, "_SMALL_SYSTEM", 3)
        found = linalg.solve(a, b)
    np.testing.assert_allclose(found, np.linalg.solve(a, b), rtol=1e-9, atol=1e-12)


def test_no_system_is_large_enough_for_threads(monkeypatch):
    sizes, solve = [], np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda a, b: sizes.append(len(a)) or solve(a, b))
    linalg.solve(np.eye(500), np.ones((500, 1)))
    assert max(sizes) <= 96


def blas_of(monkeypatch, n_threads):
    library = mock.Mock(num_threads=n_threads)
    monkeypatch.setattr(linalg, "_blas", lambda: mock.Mock(lib_controllers=[library]))
    return library


def test_threads_share_the_jobs_and_pass_errors_on(monkeypatch):
    library, together = blas_of(monkeypatch, 3), threading.Barrier(3, timeout=20)
    done = []

    def job(number):
        together.wait()  # never passed by one thread alone
        done.append(number)

    linalg.for_each(job, range(6))
    assert sorted(done) == list(range(6))
    with pytest.raises(ZeroDivisionError):
        linalg.for_each(lambda number: 1 / number, [1, 0, 2])
    assert not library.set_num_threads.called


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_states_are_standardised_as_in_training_however_small_they_are(scale):
    x = scale * np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)
    expected = torch.nn.functional.layer_norm(torch.from_numpy(x), (8,)).numpy()
    np.testing.assert_allclose(linalg.standardised(x), expected, rtol=1e-4, atol=1e-5)
