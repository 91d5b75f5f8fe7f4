"""A file of arrays: a zip of plain ``.npy`` entries, written in one step, read without trust.

The entries are stored as they are, each at a multiple of 64 bytes, so that a file can be mapped
into memory. The first one, ``header.npy``, is JSON in UTF-8; it lists the checksums of all others.
What any of it means is :mod:`persistence`' business. NumPy and the standard library alone are
needed here, and of what a file says nothing is believed before it is checked: no number in it can
make more memory be taken than the file itself has bytes.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["File", "ModelFileError", "Reader", "reading", "write"]

File: TypeAlias = str | os.PathLike[str] | IO[bytes]

_ALIGNMENT = 64
_SUFFIX, _HEADER = ".npy", "header"
# More JSON than any model has; parsed, it can take some twenty times its size.
_MAX_HEADER = 2**28
_TYPES = ("<f4", "<f8", "<i4", "<i8", "|u1")
# What NumPy writes, byte for byte; to match it needs no parser that evaluates anything.
_MAGIC = b"\x93NUMPY\x01\x00"
_DESCRIPTION = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP64_SIZE = 20
_PADDING = struct.Struct("<3H")
_PADDING_ID = 0xD935  # of zip files whose entries are aligned
_DAMAGED = "Copy or download the file again, or save the model anew."


class ModelFileError(ValueError):
    """A file is no model file, or one that is damaged, too new or made up.

    The message names the file and what is wrong with it.
    """


# -- Writing -----------------------------------------------------------------------------------


def write(file: File, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a header and arrays.

    Parameters
    ----------
    file : path-like or binary file object
        What a path names is replaced in one step, see ``_replacing``. A file object is
        written to from where it stands.
    header : mapping of str to JSON value
    arrays : mapping of str to array
        float32, float64, int64 or uint8.

    Raises
    ------
    ValueError
        If the header is too large to be read again, or the path leads to a device, say.
    """
    parts = {name: _npy(array) for name, array in arrays.items()}
    checksums = {
        name: zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(description))
        for name, (description, array) in parts.items()
    }
    header = dict(header) | {"checksums": checksums}
    text = json.dumps(header, allow_nan=False).encode()
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"The model file would get a header of {len(text)} bytes, more than the {_MAX_HEADER} "
            "that are read again. Save with joblib.dump(model, path) instead."
        )
    parts = {_HEADER: _npy(np.frombuffer(text, np.uint8))} | parts
    if isinstance(file, str | os.PathLike):
        with _replacing(file) as opened:
            _write_zip(opened, parts)
    else:
        _write_zip(_binary(file, "write"), parts)


def _npy(array: NDArray[Any]) -> tuple[bytes, NDArray[Any]]:
    """Return what goes before an array in an ``.npy`` file, and the array as it is stored."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    assert array.dtype.str in _TYPES, array.dtype
    before = io.BytesIO()
    np.lib.format.write_array_header_1_0(before, np.lib.format.header_data_from_array_1_0(array))
    return before.getvalue(), array


def _write_zip(file: IO[bytes], parts: Mapping[str, tuple[bytes, NDArray[Any]]]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (description, array) in parts.items():
            info = zipfile.ZipInfo(name + _SUFFIX)
            assert archive.fp is not None
            before = archive.fp.tell() + _LOCAL_HEADER.size + len(info.filename) + _ZIP64_SIZE
            n_zeros = -(before + _PADDING.size) % _ALIGNMENT
            padding = _PADDING.pack(_PADDING_ID, _PADDING.size - 4 + n_zeros, _ALIGNMENT)
            info.extra = padding + bytes(n_zeros)
            with archive.open(info, "w", force_zip64=True) as entry:
                entry.write(description)
                entry.write(array.reshape(-1).view(np.uint8).data)


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file of a name that nobody foresees, which then takes the place of `path`.

    Readers and other writers of `path` see the old file or the new one, whole, also after a loss
    of power. A link stays, and the file that it leads to is replaced; a file that is replaced
    leaves its mode to the new one. Nothing remains of an attempt that fails.
    """
    target = os.path.realpath(path)
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(
            f"{os.fspath(path)} is a device, a pipe or a link without end, which a model file "
            "cannot replace. Pass another path, or an open binary file."
        )
    folder = os.path.dirname(target)
    partial = os.path.join(folder, f".{secrets.token_hex(16)}.posneg.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL  # a link in its place is an error
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(partial, flags, 0o666)  # less what the umask takes
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.chmod(partial, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    with suppress(OSError, AttributeError):  # where folders can be opened, they can be synced
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _binary(file: Any, method: str) -> IO[bytes]:
    """Refuse what is no binary file object, before anything is written to or read from it."""
    if isinstance(file, io.TextIOBase) or not hasattr(file, method):
        raise TypeError(
            f"Expected a path or a binary file object, got {file!r:.50}. Open files with mode 'rb' "
            "or 'wb'."
        )
    return file


# -- Reading -----------------------------------------------------------------------------------


class _Entry(NamedTuple):
    start: int
    size: int
    crc: int


@contextmanager
def reading(file: File, *, mmap: bool) -> Iterator[Reader]:
    """Open a file of arrays.

    Parameters
    ----------
    file : path-like or binary file object
        The whole file, wherever a file object stands; it must be able to seek.
    mmap : bool
        Whether arrays are parts of the file, mapped into memory, or copies. Needs a path.

    Yields
    ------
    Reader

    Raises
    ------
    ModelFileError
        If it is no zip file of plain ``.npy`` entries with a header.
    OSError
        If the file cannot be opened.
    TypeError
        If a file object is no binary one, cannot seek, or is to be mapped.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            yield Reader(opened, os.fspath(file), mmap=mmap)
        return
    if mmap:
        raise TypeError("mmap=True needs the path of a file on disk, got a file object.")
    file = _binary(file, "read")
    if not file.seekable():
        raise TypeError(
            f"A model is read from a file that can seek, got {file!r:.50}. Read it into "
            "io.BytesIO first."
        )
    name = getattr(file, "name", None)
    yield Reader(file, name if isinstance(name, str) else f"The {type(file).__name__}", mmap=False)


class Reader:
    """What a file of arrays holds, checked piece by piece.

    Parameters
    ----------
    file : binary file object
    name : str
        How errors call it.
    mmap : bool
        Whether to map the file instead of reading it.

    Attributes
    ----------
    header : dict
        The JSON of its first entry.
    names : set of str
        The arrays that it holds.
    """

    def __init__(self, file: IO[bytes], name: str, *, mmap: bool) -> None:
        self._file, self.name = file, name
        self._size = file.seek(0, os.SEEK_END)
        self._mapped: NDArray[np.uint8] | None = None
        self._fault: str | None = None
        self._entries = self._directory()
        if _HEADER not in self._entries:
            self.refuse(self._fault or "is no posneg_rec model file: it has no header")
        if self._entries[_HEADER].size > _MAX_HEADER:
            self.refuse(f"has a header of more than {_MAX_HEADER} bytes")
        self.header = self._json(self.array(_HEADER, "|u1").tobytes())
        if mmap:
            self._mapped = np.memmap(file, np.uint8, "r")
            if len(self._mapped) != self._size:
                self.refuse(f"changed while it was read. {_DAMAGED}")
        self.names = set(self._entries) - {_HEADER}

    def refuse(self, fault: str) -> NoReturn:
        """Raise the error that names the file, and why it is refused."""
        raise ModelFileError(f"{self.name} {fault.rstrip('.')}.")

    def array(self, name: str, dtype: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Return an array whose checksum, type and, if given, shape are right; it is read-only.

        Parameters
        ----------
        name : str
        dtype : str
            As in an ``.npy`` file: ``"<f4"``, say.
        shape : tuple of int, default=None
            None allows every one.

        Returns
        -------
        ndarray
            A part of the mapped file, an :class:`numpy.memmap`, or in memory of its own.
        """
        label = f"array {name!r:.80}"
        if name not in self._entries:
            self.refuse(f"lacks the {label}")
        entry = self._entries[name]
        data = self._take(entry.start, entry.size)
        if zlib.crc32(data.data) != entry.crc:
            self.refuse(f"is damaged: the checksum of the {label} differs. {_DAMAGED}")
        n_before = len(_MAGIC) + 2
        lead = data[:n_before].tobytes()
        if len(lead) == n_before and lead.startswith(_MAGIC):
            n_before += int.from_bytes(lead[-2:], "little")
        described = _DESCRIPTION.fullmatch(data[len(lead) : n_before].tobytes())
        if described is None:
            self.refuse(f"holds no plain array as {label}")
        found, order, sizes = (group.decode() for group in described.groups())
        found_shape = tuple(int(size) for size in sizes.replace(",", " ").split())
        if found != dtype or shape not in (None, found_shape):
            self.refuse(
                f"has an {label} of dtype {found!r} and shape {found_shape}, expected "
                f"{dtype!r} and {'any' if shape is None else shape}"
            )
        try:
            array = data[n_before:].view(dtype)
            array = array.reshape(found_shape, order="F" if order == "True" else "C")
        except ValueError:  # also where the product of the sizes overflows
            self.refuse(f"says that the {label} has shape {found_shape}, which does not fit it")
        if not (array.flags.aligned and array.flags.c_contiguous and array.dtype.isnative):
            array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        array.flags.writeable = False
        return array

    def check_entries(self) -> None:
        """Check that every entry is a plain one, which is left to do once the format is known."""
        if self._fault is not None:
            self.refuse(self._fault)

    def check_list(self) -> None:
        """Check that the arrays are those that the header lists, of the same checksums."""
        listed = self.header.pop("checksums", None)
        found = {name: entry.crc for name, entry in self._entries.items() if name != _HEADER}
        if listed != found:
            self.refuse(
                "does not hold the arrays that its header lists, or not with the same checksums. "
                f"{_DAMAGED}"
            )

    def _take(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return bytes of the file; the caller has checked that it has them."""
        if self._mapped is not None:
            return self._mapped[start : start + size]
        return np.frombuffer(self._read(start, size), np.uint8)

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more  # an unbuffered file gives what it likes
        if len(data) != size:
            self.refuse(f"is cut short, or changed while it was read. {_DAMAGED}")
        return data

    def _directory(self) -> dict[str, _Entry]:
        """Find the entries: stored as they are, within the file, one after the other."""
        self._file.seek(0)
        lead = self._file.read(4)
        try:
            archive = zipfile.ZipFile(self._file)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a place before the file's beginning
                raise
            self._no_zip(lead)
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            struct.error,
            ValueError,
            EOFError,
            OverflowError,
            LookupError,
            MemoryError,
        ):
            self._no_zip(lead)
        entries: dict[str, _Entry] = {}
        end = 0
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            name = info.orig_filename.removesuffix(_SUFFIX)
            fault = None
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                fault = "is compressed, which those of model files are not"
            elif info.flag_bits & ~0x808:  # sizes after the data, names in UTF-8
                fault = "has flags that those of model files do not have"
            elif name == info.orig_filename:
                fault = "is no .npy file"
            elif name in entries:
                fault = "is there twice"
            elif not end <= info.header_offset <= archive.start_dir - _LOCAL_HEADER.size:
                fault = f"overlaps another. {_DAMAGED}"
            else:
                local = _LOCAL_HEADER.unpack(self._read(info.header_offset, _LOCAL_HEADER.size))
                start = info.header_offset + _LOCAL_HEADER.size + local[-2] + local[-1]
                end = start + info.file_size
                if local[0] == b"PK\3\4" and end <= archive.start_dir:
                    entries[name] = _Entry(start, info.file_size, info.CRC)
                    continue
                fault = f"is not where the file says. {_DAMAGED}"
            self._fault = self._fault or f"has an entry {info.orig_filename!r:.80} that {fault}"
        return entries

    def _no_zip(self, lead: bytes) -> NoReturn:
        if not self._size:
            self.refuse("is empty, and so no posneg_rec model file")
        if lead == b"PK\3\4":
            self.refuse(f"is cut short or damaged. {_DAMAGED}")
        if lead[:1] == b"\x80":
            self.refuse(
                "is no posneg_rec model file but a pickle. If you know who made it, and only then, "
                "open it with joblib.load"
            )
        self.refuse("is no posneg_rec model file")

    def _json(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(
                text.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant
            )
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            self.refuse("is no posneg_rec model file: its header is not the JSON of one")
        return header


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is there twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
