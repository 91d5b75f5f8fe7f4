"""Histories on disk, for interactions that memory has no room for.

A store is a folder: what :func:`interactions.read_interactions` makes of a table, put in order of
user and time, in flat files that are mapped into memory. The rows come batch by batch and are read
by the same code as a table; DuckDB sorts them, out of core, and is needed for nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

import posneg_rec
from posneg_rec.columns import ROLES
from posneg_rec.feedback import read_signs
from posneg_rec.frames import full_name, speaks_arrow
from posneg_rec.ids import ItemVocabulary, name_row
from posneg_rec.interactions import (
    Interactions,
    check_not_empty,
    find_columns,
    read_table,
)
from posneg_rec.sequences import offsets_of, shorten

__all__ = ["InteractionStore"]

_FORMAT = 1
_HEAD = "store.json"
# Rows that are read, sorted into and written at a time.
_BATCH = 2**20
# What DuckDB may take for the sort before it writes to the folder.
_SORT_MEMORY = "1GB"
# Events: the columns in which they are sorted, and as which they are kept.
_SORTED = {"user": "<i4", "item": "<i4", "time": "", "row": "<i8", "sign": "|i1"}
_DTYPES = ("<i4", "<i8", "<f8", "|i1", "|u1")
_CODINGS = ("liked", "binary", "signed", "graded")


class InteractionStore:
    """A folder of interactions in order of user and time, which is fitted like a table.

    The constructor opens a folder that :meth:`build` made. Its files are mapped into memory, so a
    fit takes memory for the users, the items and a batch, and none for each event but a few
    bytes.

    Parameters
    ----------
    path : path-like
        The folder.

    Attributes
    ----------
    path : str
        Where it is.
    n_rows, n_events : int
        Rows that were passed, and those of them that are not masked.
    n_users, n_items : int
    feedback_coding : {"liked", "binary", "signed", "graded"}
        How the feedback was read.
    positive_threshold : float, (low, high) or None
        With which graded feedback was read.
    has_feedback : bool
        Whether there was feedback, or everything counts as liked.
    columns : dict of str to str
        The columns that were read as "user", "item", and "time", if there is one.
    names : list of str
        All columns of the table.

    Raises
    ------
    ValueError
        If the folder is no store, damaged, or made by a newer version.

    Notes
    -----
    Whether the files are as they were written is checked by their checksums when the folder is
    opened, which reads all of it once.

    Examples
    --------
    >>> import tempfile
    >>> import pyarrow as pa
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.store import InteractionStore
    >>> world = make_opposing_patterns(n_users=60, random_state=0)
    >>> rows = pa.table(dict(zip(["user", "item", "time"], world.interactions.T, strict=True)))
    >>> rows = rows.append_column("liked", pa.array(world.feedback == 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = InteractionStore.build(f"{folder}/rows", rows, feedback="liked")
    ...     model = ContrastiveSeqRecommender(embedding_dim=8, max_epochs=1, random_state=0)
    ...     model = model.fit(store)
    >>> store
    InteractionStore(n_events=1302, n_users=60, n_items=80, feedback_coding='binary')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        reader = _Reader(self.path)
        head = reader.head
        self.n_rows, self.n_events = head["n_rows"], head["n_events"]
        self.feedback_coding, self.has_feedback = head["feedback_coding"], head["has_feedback"]
        self._has_zeros: bool = head["has_zeros"]
        threshold = head["positive_threshold"]
        self.positive_threshold: float | tuple[float, float] | None = (
            (threshold[0], threshold[1]) if isinstance(threshold, list) else threshold
        )
        self.columns: dict[str, str] = head["columns"]
        self.names: list[str] = head["names"]
        self._time_unit = head["time_unit"]
        self._user_ids, self._item_ids = reader.ids("users"), reader.ids("items")
        self.n_users, self.n_items = len(self._user_ids), len(self._item_ids)
        self._events = {name: reader.array(name) for name in _SORTED if name in reader.arrays}
        self._offsets = np.array(reader.array("offsets"))
        lengths = {len(array) for array in self._events.values()} | {self._offsets[-1]}
        if lengths != {self.n_events} or len(self._offsets) != self.n_users + 1:
            reader.refuse("has columns of different lengths")

    def __repr__(self) -> str:
        """Return a short description."""
        return (
            f"InteractionStore(n_events={self.n_events}, n_users={self.n_users}, "
            f"n_items={self.n_items}, feedback_coding={self.feedback_coding!r})"
        )

    def __reduce__(self) -> tuple[type[InteractionStore], tuple[str]]:
        """Pickle where it is, not what it holds."""
        return InteractionStore, (os.path.abspath(self.path),)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        interactions: Any,
        feedback: str | None = None,
        *,
        positive_threshold: float | tuple[float, float] | None = None,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
        feedback_coding: str | None = None,
    ) -> InteractionStore:
        """Make a store of rows that come in batches.

        Everything is read as in a table of all rows: which column is which, what is liked, which
        rows are masked, what is an error. The memory that it takes grows with the users and items
        alone; on disk it takes some 50 bytes for each row, 25 of which stay.

        Parameters
        ----------
        path : path-like
            The folder to make. It appears when it is complete.
        interactions : path-like, or what speaks Arrow's PyCapsule interface
            A parquet file, or a folder of such, in the order of their names; or a reader of
            record batches, a relation of DuckDB, a table of Arrow, ... Its columns are as in
            :meth:`ContrastiveSeqRecommender.fit`.
        feedback : str, default=None
            The column of these rows that holds the feedback. None: all liked.
        positive_threshold, user_column, item_column, time_column
            As in the recommender that is to be fitted, which must have the same.
        feedback_coding : {"binary", "signed", "graded"}, default=None
            ``feedback_coding_`` of the model that is to read the rows, or "signed" where 0 is
            neutral though no -1 occurs. By default 0 is neutral where -1 occurs in any row.

        Returns
        -------
        InteractionStore

        Raises
        ------
        ValueError
            If the folder is there already, a value is missing or out of range, or it is in doubt
            which column is which.
        TypeError
            If a column or the feedback has a type that cannot be read, or `interactions` is
            neither a path nor speaks Arrow.
        ImportError
            If DuckDB or pyarrow is not installed (``pip install "posneg-rec[store]"``).

        Warns
        -----
        UserWarning
            If no feedback is named, but a column looks like it.
        """
        duckdb, pyarrow = _needed("duckdb"), _needed("pyarrow")
        target = Path(path)
        if os.path.lexists(target):
            raise ValueError(f"{target} is there already: remove it, or pass another path.")
        if feedback_coding not in (None, *_CODINGS):
            raise ValueError(
                f"feedback_coding must be one of {', '.join(_CODINGS)}, got "
                f"{shorten(feedback_coding)}."
            )
        explicit = {"user": user_column, "item": item_column, "time": time_column}
        schema, rows = _opened(interactions, pyarrow)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not of tempfile, whose folders are closed to others.
        folder = target.parent / f".{target.name}-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            staged = _Staged(
                folder, schema, explicit, feedback, positive_threshold, feedback_coding
            )
            for batch in _evened(rows(staged.read), pyarrow):
                staged.add(batch)
            head = staged.finish(duckdb, pyarrow)
            with open(folder / _HEAD, "w", encoding="utf-8") as file:
                json.dump(head, file)
            os.rename(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(target)

    def interactions_as(
        self,
        feedback: Any,
        *,
        positive_threshold: float | tuple[float, float] | None,
        feedback_coding: str | None,
        **columns: str | int | None,
    ) -> Interactions:
        """Return the interactions as the caller would read a table; refuse what is read otherwise.

        Parameters
        ----------
        feedback, positive_threshold, feedback_coding, user_column, item_column, time_column
            As in :func:`interactions.read_interactions`.
        """
        if feedback is not None:
            raise ValueError(
                "A store holds the feedback that it was built with: pass none, or build it with "
                "feedback='...', the name of a column."
            )
        threshold = positive_threshold
        if isinstance(threshold, list | tuple):
            threshold = (threshold[0], threshold[1])
        if self.has_feedback and threshold != self.positive_threshold:
            raise ValueError(
                f"The store was built with positive_threshold={shorten(self.positive_threshold)}, "
                f"the model has {shorten(positive_threshold)}: set the model's, or build the store "
                "anew."
            )
        codings = feedback_coding, self.feedback_coding
        if codings == ("binary", "signed") or (codings == ("signed", "binary") and self._has_zeros):
            kinds = {"binary": "disliked", "signed": "neutral"}
            raise ValueError(
                f"In the store 0 is {kinds[self.feedback_coding]}, in the model it is "
                f"{kinds[str(feedback_coding)]}: build the store with "
                f"feedback_coding={feedback_coding!r}."
            )
        for role in ROLES:
            asked, held = columns.get(f"{role}_column"), self.columns.get(role)
            place = self.names.index(held) if held in self.names else None
            if asked is not None and asked not in (held, place):
                raise ValueError(
                    f"The model has {role}_column={shorten(asked)}, but the store was built of "
                    f"{'no time' if held is None else f'column {shorten(held)}'}: set the "
                    "model's, or build the store anew."
                )
        events = self._events
        return Interactions(
            events["user"],
            self._user_ids,
            events["item"],
            self._item_ids,
            events.get("time"),
            events["sign"],
            events["row"],
            self.n_rows,
            self.feedback_coding,
            self._time_unit,
            offsets=self._offsets,
        )


def _needed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"To build a store takes {name}, which is not installed: pip install "
            "'posneg-rec[store]'. (To open and fit one takes neither DuckDB nor pyarrow.)",
            name=name,
        ) from error


# -- Reading the rows ----------------------------------------------------------------------------


def _opened(interactions: Any, pyarrow: Any) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """Return the schema of the rows, and what gives some of their columns batch by batch."""
    if isinstance(interactions, str | os.PathLike):
        return _of_parquet(Path(interactions), pyarrow)
    if not hasattr(interactions, "__arrow_c_stream__"):
        if speaks_arrow(interactions):  # one batch
            interactions = pyarrow.table(interactions)
        else:
            raise TypeError(
                "interactions must be the path of a parquet file or folder, or speak Arrow's "
                "PyCapsule interface (a reader of record batches, a relation of DuckDB, a table), "
                f"got {full_name(interactions)}."
            )
    reader = pyarrow.RecordBatchReader.from_stream(interactions)
    return reader.schema, lambda names: (batch.select(names) for batch in reader)


def _of_parquet(path: Path, pyarrow: Any) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    parquet = import_module("pyarrow.parquet")
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"{path} holds no file *.parquet.")

    def opened(one: Path) -> Any:
        try:
            return parquet.ParquetFile(one)
        except FileNotFoundError:
            raise ValueError(f"There is no file {one}.") from None
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{one} is no parquet file: {error!s:.100}") from error

    with opened(paths[0]) as first:
        schema = first.schema_arrow

    def batches(names: list[str]) -> Iterator[Any]:
        for one in paths:
            with opened(one) as file:
                if not file.schema_arrow.equals(schema):
                    raise ValueError(
                        f"{one} has other columns than {paths[0]}: all "
                        "files must have the same, in the same order and of the same types."
                    )
                yield from file.iter_batches(_BATCH, columns=names)

    return schema, batches


def _evened(batches: Iterator[Any], pyarrow: Any) -> Iterator[Any]:
    """Join small batches, and cut large ones."""
    held: list[Any] = []
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            piece = batch.slice(start, _BATCH)
            if held and sum(part.num_rows for part in held) + piece.num_rows > _BATCH:
                yield pyarrow.Table.from_batches(held)
                held = []
            held.append(piece)
    if held:
        yield pyarrow.Table.from_batches(held)


class _Staged:
    """Rows that were read, in flat files in the order in which they came."""

    def __init__(
        self,
        folder: Path,
        schema: Any,
        explicit: Mapping[str, str | int | None],
        feedback: str | None,
        positive_threshold: float | tuple[float, float] | None,
        feedback_coding: str | None,
    ) -> None:
        self.folder, self.names = folder, list(schema.names)
        self.threshold, self.coding = positive_threshold, feedback_coding
        places, ignored = find_columns(schema.empty_table(), dict(explicit))
        self.columns = {role: self.names[place] for role, place in places.items()}
        self.feedback = feedback
        if feedback is not None:
            if self.names.count(feedback) != 1:
                raise ValueError(
                    f"feedback={shorten(feedback)} is not one of the columns "
                    f"{', '.join(map(shorten, self.names[:10]))}: it names the one that holds the "
                    "feedback."
                )
        elif ignored:
            name = shorten(ignored[0])
            warnings.warn(
                f"No feedback was named, so everything counts as liked, and the column {name} is "
                "not read. If it holds how each event was received, name it: "
                f"build(..., feedback={name}).",
                UserWarning,
                stacklevel=3,
            )
        #: The columns that are looked at.
        self.read = [*self.columns.values(), *([] if feedback is None else [feedback])]
        self.n_rows = self.n_events = 0
        self.users: ItemVocabulary | None = None
        self.items: ItemVocabulary | None = None
        self.codings: set[str] = set()
        self.has_zeros = False  # as numbers, which booleans have none of
        self.kinds: dict[str, Any] = {}

    def add(self, batch: Any) -> None:
        """Read a table of rows, and write them down."""
        start, n_rows = self.n_rows, batch.num_rows
        self.n_rows += n_rows

        def where(position: int) -> str:
            return name_row(start + position)

        read = batch.select(list(self.columns.values()))
        time_column = 2 if "time" in self.columns else None
        table = read_table(read, 0, 1, time_column, where=where)
        signs = self._signs(batch, table, where)
        if not len(table.user_codes):
            return
        self._check_kind("times", None if table.times is None else table.times.dtype.str)
        self._check_kind("time units", table.time_unit)
        self.users, users = _joined(self.users, table.user_ids, table.user_codes, "users")
        self.items, items = _joined(self.items, table.item_ids, table.item_codes, "items")
        self.n_events += len(users)
        columns = {"user": users, "item": items, "time": table.times, "sign": signs}
        for name, values in {**columns, "row": table.rows + start}.items():
            if values is not None:
                # -0.0 and 0.0 are one time.
                values = values + 0.0 if values.dtype.kind == "f" else values
                with open(self._path(name), "ab") as file:
                    file.write(values.tobytes())

    def _signs(self, batch: Any, table: Interactions, where: Callable[[int], str]) -> Any:
        """Read the feedback of a batch; where 0 may turn out to be neutral it is left so."""
        if self.feedback is None:
            return table.signs
        values = batch.column(self.feedback)

        def read(coding: str | None) -> tuple[NDArray[np.int8], str]:
            return read_signs(values, table.kept, table.n_rows, self.threshold, coding, where)

        signs, coding = read(self.coding)
        self.codings.add(coding)
        if coding == "binary" and self.coding is None:
            signs, _ = read("signed")
        self.has_zeros |= coding == "binary" and not (self.coding is None and signs.all())
        return signs

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.staged"

    def _check_kind(self, name: str, kind: Any) -> None:
        if self.kinds.setdefault(name, kind) != kind:
            raise TypeError(
                f"The {name} of the batches differ: {self.kinds[name]}, then {kind}. Give all of "
                "them one type."
            )

    def finish(self, duckdb: Any, pyarrow: Any) -> dict[str, Any]:
        """Sort what was read into the files of a store; return what its head says."""
        if not self.n_rows:
            raise ValueError("Found 0 sample(s) while a minimum of 1 is required: no row came.")
        nothing = np.empty(0, np.int64)
        check_not_empty(
            Interactions(
                np.empty(self.n_events, np.int8),
                nothing,
                nothing,
                nothing,
                None,
                np.empty(0, np.int8),
                None,
                self.n_rows,
                "liked",
            )
        )
        assert self.users is not None and self.items is not None
        coding = self._coding()
        arrays = _Writer(self.folder)
        ranks = {}
        for name, vocabulary in (("user", self.users), ("item", self.items)):
            order = np.argsort(vocabulary.items, kind="stable")
            ranks[name] = np.empty(len(order), np.int32)
            ranks[name][order] = np.arange(len(order), dtype=np.int32)
            arrays.write_ids(f"{name}s", vocabulary.items[order])
        time = self.kinds["times"]
        dtypes = {name: dtype or time for name, dtype in _SORTED.items() if dtype or time}
        kept = dtypes | ({"row": "<i4"} if self.n_rows < 2**31 else {})
        n_of_user = np.zeros(len(self.users), np.int64)
        for batch in self._sorted(duckdb, pyarrow, dtypes, ranks, is_binary=coding == "binary"):
            for name, dtype in kept.items():
                arrays.append(name, batch.column(name).to_numpy(zero_copy_only=False), dtype)
            np.add.at(n_of_user, batch.column("user").to_numpy(), 1)
        for name in dtypes:
            self._path(name).unlink()
        shutil.rmtree(self.folder / "sort", ignore_errors=True)
        arrays.append("offsets", offsets_of(n_of_user), "<i8")
        threshold = self.threshold
        return {
            "posneg_rec_store": _FORMAT,
            "posneg_rec": posneg_rec.__version__,
            "n_rows": self.n_rows,
            "n_events": self.n_events,
            "feedback_coding": coding,
            "has_feedback": self.feedback is not None,
            "has_zeros": self.has_zeros,
            "positive_threshold": list(threshold) if isinstance(threshold, tuple) else threshold,
            "time_unit": self.kinds["time units"],
            "columns": self.columns,
            "names": self.names,
            "arrays": arrays.arrays,
        }

    def _coding(self) -> str:
        """Settle the coding of all rows by those of the batches."""
        found = self.codings or {"liked"}
        return next(coding for coding in ("signed", "graded", "binary", "liked") if coding in found)

    def _sorted(
        self,
        duckdb: Any,
        pyarrow: Any,
        dtypes: Mapping[str, str],
        ranks: Mapping[str, NDArray[np.int32]],
        *,
        is_binary: bool,
    ) -> Iterator[Any]:
        """Let DuckDB sort the rows by user and time, ties in the order of the rows."""

        def batches() -> Iterator[Any]:
            for start in range(0, self.n_events, _BATCH):
                columns = {
                    name: np.fromfile(
                        self._path(name), dtype, _BATCH, offset=start * np.dtype(dtype).itemsize
                    )
                    for name, dtype in dtypes.items()
                }
                columns |= {name: of[columns[name]] for name, of in ranks.items()}
                if is_binary:  # then 0 was disliked, and nothing neutral
                    columns["sign"] = np.where(columns["sign"] == 1, 1, -1).astype(np.int8)
                yield pyarrow.record_batch(columns)

        types = {name: pyarrow.from_numpy_dtype(np.dtype(dtype)) for name, dtype in dtypes.items()}
        staged = pyarrow.RecordBatchReader.from_batches(pyarrow.schema(types), batches())
        keys = "user, time, row" if "time" in dtypes else "user, row"
        keys = ", ".join(f'"{key}"' for key in keys.split(", "))
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"SET memory_limit = '{_SORT_MEMORY}'")
            connection.execute(f"SET threads = {min(4, os.cpu_count() or 1)}")
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET temp_directory = ?", [str(self.folder / "sort")])
            connection.register("staged", staged)
            found = connection.sql(f"SELECT * FROM staged ORDER BY {keys}")
            # The second name is that of older versions.
            stream = getattr(found, "to_arrow_reader", None) or found.fetch_record_batch
            yield from stream(_BATCH)


def _joined(
    vocabulary: ItemVocabulary | None, ids: NDArray[Any], codes: NDArray[np.integer], name: str
) -> tuple[ItemVocabulary, NDArray[np.int32]]:
    """Give ids of a batch codes among those of all batches, of which some may have come before."""
    try:
        vocabulary = ItemVocabulary(ids) if vocabulary is None else vocabulary.extended(ids)
    except TypeError as error:
        raise TypeError(f"The {name} of the batches differ in type: {error}") from error
    if len(vocabulary) >= 2**31:
        raise ValueError(f"A store holds fewer than 2**31 {name}, there are {len(vocabulary)}.")
    return vocabulary, vocabulary.encode(ids).astype(np.int32)[codes]


# -- Files ---------------------------------------------------------------------------------------


class _Writer:
    """Writes arrays piece by piece, and keeps their checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def append(self, name: str, values: NDArray[Any], dtype: str) -> None:
        data = np.ascontiguousarray(values, dtype).tobytes()
        array = self.arrays.setdefault(name, {"dtype": dtype, "size": 0, "crc32": 0})
        array["size"] += len(data)
        array["crc32"] = zlib.crc32(data, array["crc32"])
        with open(self.folder / f"{name}.bin", "ab") as file:
            file.write(data)

    def write_ids(self, name: str, ids: NDArray[Any]) -> None:
        if ids.dtype != object:
            self.append(name, ids, ids.dtype.newbyteorder("<").str)
            return
        kinds = sorted({type(value).__name__ for value in ids})
        if not all(isinstance(value, str) for value in ids):
            raise TypeError(
                f"{name} of type {', '.join(kinds)} have no place in a store, which holds "
                "integers, floats and strings: convert them to strings."
            )
        texts = [value.encode("utf-8") for value in ids]
        self.append(name, np.frombuffer(b"".join(texts), np.uint8), "|u1")
        self.append(f"{name}.offsets", offsets_of(list(map(len, texts))), "<i8")


class _Reader:
    """Opens the files of a store and looks whether they are what was written."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(os.path.join(path, _HEAD), encoding="utf-8") as file:
                head = json.load(file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.refuse(f"is no store: it has no {_HEAD} that could be read ({reason!s:.100})")
        if not isinstance(head, dict) or "posneg_rec_store" not in head:
            self.refuse(f"is no store: its {_HEAD} is another's")
        if head["posneg_rec_store"] != _FORMAT:
            self.refuse(
                f"has format {shorten(head['posneg_rec_store'])}, and this version reads "
                f"{_FORMAT}: it was made by posneg_rec {shorten(head.get('posneg_rec'))}"
            )
        types = {
            "n_rows": int,
            "n_events": int,
            "has_feedback": bool,
            "has_zeros": bool,
            "columns": dict,
            "names": list,
            "arrays": dict,
        }
        for name, type_ in types.items():
            if not isinstance(head.get(name), type_):
                self.refuse(f"is damaged: its {_HEAD} lacks {name}")
        if head.get("feedback_coding") not in _CODINGS or "positive_threshold" not in head:
            self.refuse(f"is damaged: its {_HEAD} does not say how feedback was read")
        self.head, self.arrays = head, head["arrays"]

    def refuse(self, fault: str) -> NoReturn:
        raise ValueError(f"{self.path} {fault}. Build the store anew.")

    def array(self, name: str) -> NDArray[Any]:
        """Map an array whose size and checksum are right."""
        told, path = self.arrays.get(name), os.path.join(self.path, f"{name}.bin")
        if not isinstance(told, dict) or told.get("dtype") not in _DTYPES:
            self.refuse(f"is damaged: its {_HEAD} lacks the column {name}")
        try:
            size, checksum = os.path.getsize(path), 0
            if size == told.get("size"):
                with open(path, "rb") as file:  # not mapped: pages that are read stay in memory
                    while data := file.read(2**23):
                        checksum = zlib.crc32(data, checksum)
        except OSError as error:
            self.refuse(f"is damaged: {name}.bin cannot be read ({error.strerror})")
        if size != told.get("size") or checksum != told.get("crc32"):
            self.refuse(f"is damaged: {name}.bin is not what was written")
        if size == 0:
            return np.empty(0, told["dtype"])
        with suppress(ValueError):  # a size that is no multiple
            return np.asarray(np.memmap(path, told["dtype"], "r"))
        self.refuse(f"is damaged: {name}.bin does not hold {told['dtype']}")

    def ids(self, name: str) -> NDArray[Any]:
        """Read ids into memory."""
        ids = np.array(self.array(name))
        if ids.dtype != np.uint8:
            return ids
        data, offsets = ids.tobytes(), self.array(f"{name}.offsets").tolist()
        texts = [data[start:stop].decode("utf-8") for start, stop in pairwise(offsets)]
        return np.fromiter(texts, dtype=object, count=len(texts))
