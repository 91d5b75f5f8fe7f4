"""What a fit that was killed goes on from: a file of arrays, written after each epoch.

It says what it was made from, and nothing in it is code. What the state of a training is, is
:mod:`training`'s business; how a file is written and read, that of :mod:`archive`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from posneg_rec import archive, persistence

__all__ = ["Checkpoint", "State", "digest"]

#: Gives an array by name, dtype and shape, or raises.
Arrays: TypeAlias = Callable[[str, str, tuple[int, ...] | None], NDArray[Any]]

_PRECISIONS = ("float32", "bfloat16")
# Numbers of an array, which may be mapped from a disk, that are looked at together.
_AT_ONCE = 2**20


class State(NamedTuple):
    """What changes from epoch to epoch."""

    plain: dict[str, Any]  # JSON
    arrays: dict[str, NDArray[Any]]


def digest(*parts: Any) -> str:
    """Tell data from other data, whatever machine holds it: arrays, or what has a ``repr``."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind != "O":
            # Codes are the same codes however wide they are kept.
            dtype = np.dtype("<i8") if part.dtype == np.int32 else part.dtype.newbyteorder("<")
            found.update(f"{dtype.str}{part.shape}".encode())
            flat = part.reshape(-1)
            for start in range(0, len(flat), _AT_ONCE):
                piece = np.ascontiguousarray(flat[start : start + _AT_ONCE], dtype)
                found.update(piece.view(np.uint8).data)
        else:
            part = part.tolist() if isinstance(part, np.ndarray) else part
            found.update(f"{type(part).__name__}{part!r}".encode(errors="surrogatepass"))
    return found.hexdigest()


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : path-like
        Where it is, or will be.

    Attributes
    ----------
    precision : str or None
        Number format of the products, once it is settled.
    is_ours : bool, default=True
        Whether this process writes and removes the file. Of several that fit together one does.

    Raises
    ------
    TypeError
        If `path` is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint must be a path, got {path!r:.50}.")
        self.path = os.fspath(path)
        self.precision: str | None = None
        self.is_ours = True
        self._made_from: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._header: dict[str, Any] | None = None
        self._is_behind = False

    def open(self, made_from: Mapping[str, Any], start: dict[str, Any]) -> dict[str, Any]:
        """Look whether there is one of this fit; what is there stays as it is.

        A damaged one is found out here or by :meth:`resume`, in any case before the first epoch.

        Parameters
        ----------
        made_from : mapping of str to JSON value
            All that the result depends on.
        start : dict
            State of the random generator that a new fit begins with.

        Returns
        -------
        dict
            The state that this fit began with, once.

        Raises
        ------
        ModelFileError
            If the file is no checkpoint, or a damaged one.
        ValueError
            If it is one of another fit.
        OSError
            If it cannot be read.
        """
        self._made_from, self._start = dict(made_from), start
        try:
            with archive.reading(self.path, mmap=False) as reader:
                persistence.check_format(reader, "checkpoint")
                header = reader.header
                found = header.get("made_from")
                if not (
                    isinstance(found, dict)
                    and isinstance(header.get("start"), dict)
                    and isinstance(header.get("state"), dict)
                    and header.get("precision") in _PRECISIONS
                ):
                    reader.refuse("lacks a part of a checkpoint, or has one of another kind")
                try:
                    np.random.PCG64().state = header["start"]
                except (ArithmeticError, LookupError, TypeError, ValueError):
                    reader.refuse("holds no state of a random generator that could be")
        except FileNotFoundError:
            return start
        differences = [
            f"{name}={_shown(found.get(name))}, now {_shown(value)}"
            for name, value in made_from.items()
            if name not in found or found[name] != value
        ]
        if differences:
            raise ValueError(
                f"The checkpoint {self.path} is one of another fit: {'; '.join(differences)}. Pass "
                "the same as then to resume that fit, or another path, or remove the file, to "
                "start anew."
            )
        self._header, self._start, self.precision = header, header["start"], header["precision"]
        return self._start

    def resume(self, restore: Callable[[dict[str, Any], Arrays], None]) -> None:
        """Hand on the state that was found, if one was.

        Parameters
        ----------
        restore : callable
            Takes what is JSON, and a function that gives arrays by name, dtype and shape. An
            error of it is one of the file.
        """
        if self._header is None:
            return
        with archive.reading(self.path, mmap=False) as reader:
            persistence.check_format(reader, "checkpoint")
            if reader.header != self._header:
                reader.refuse("changed while it was read. Does another fit write to it?")
            try:
                restore(self._header["state"], reader.array)
            except archive.ModelFileError:
                raise
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                reader.refuse(f"holds a state that cannot be ({type(error).__name__}: {error})")

    def write(self, state: State, epoch: int) -> None:
        """Replace the file in one step.

        Before the first epoch of a process what cannot be written is an error, later a warning:
        the file of an earlier epoch is still there, and training is not lost by it.
        """
        if not self.is_ours:
            return
        header = persistence.head("checkpoint") | {
            "made_from": self._made_from,
            "start": self._start,
            "precision": self.precision,
            "state": state.plain,
        }
        try:
            archive.write(self.path, header, state.arrays)
            self._is_behind = False
        except OSError as error:
            if epoch == 0:
                raise OSError(
                    error.errno, f"The checkpoint cannot be written: {error.strerror}", self.path
                ) from error
            if not self._is_behind:
                warnings.warn(
                    f"After epoch {epoch} the checkpoint {self.path} could not be written "
                    f"({error.strerror or error}): training goes on. A fit that is started again "
                    "resumes from the last epoch that could.",
                    UserWarning,
                    stacklevel=8,
                )
            self._is_behind = True

    def remove(self) -> None:
        """Remove the file: its fit has ended well."""
        if not self.is_ours:
            return
        try:
            os.unlink(os.path.realpath(self.path))
        except FileNotFoundError:
            pass
        except OSError as error:
            warnings.warn(
                f"The fit ended well, but its checkpoint {self.path} could not be removed "
                f"({error.strerror or error}): remove it before another fit.",
                UserWarning,
                stacklevel=5,
            )


def _shown(value: Any) -> str:
    return f"{value!r:.50}"
