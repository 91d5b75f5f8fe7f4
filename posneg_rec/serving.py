"""The light door: a model file opened to answer with, without scikit-learn and torch."""

from __future__ import annotations

from posneg_rec.answering import ServedRecommender
from posneg_rec.persistence import File, read_model

__all__ = ["load"]


def load(path: File, *, mmap: bool = False) -> ServedRecommender:
    """Open a saved model to answer with, in a process that needs NumPy and narwhals alone.

    What it returns has the methods, arguments and answers of
    :class:`posneg_rec.ContrastiveSeqRecommender`, and neither scikit-learn nor torch is imported
    for it. SciPy is where many histories are answered in one call.

    Parameters
    ----------
    path : path-like or binary file object
        What :meth:`ContrastiveSeqRecommender.save` wrote. Nothing in it is executed.
    mmap : bool, default=False
        Map the arrays of a file on disk into memory, so that all processes of a host share one
        copy of them.

    Returns
    -------
    ServedRecommender

    Raises
    ------
    posneg_rec.persistence.ModelFileError
        If the file is no model file, damaged, made by a newer version or made up; a ValueError.

    Examples
    --------
    >>> import io
    >>> from posneg_rec import ContrastiveSeqRecommender, serving
    >>> model = ContrastiveSeqRecommender(embedding_dim=4, n_heads=1, max_epochs=1, random_state=0)
    >>> model = model.fit([["a", "b", "c"], ["b", "c", "a"]], [[1, 0, 1], [1, 1, 0]])
    >>> file = io.BytesIO()
    >>> model.save(file)
    >>> served = serving.load(file)
    >>> sorted(served.recommend(["a"], k=2, feedback=[True])[0])
    ['b', 'c']
    """
    return read_model(path, ServedRecommender, mmap=mmap)
