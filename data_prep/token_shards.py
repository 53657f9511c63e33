"""Token shards: Megatron-LM's indexed dataset (`.bin` and `.idx`), and the table that names its documents.

`.bin` is the documents' ids one after another, little-endian. `.idx` is

    9 bytes   "MMIDIDX" and two NULs
    uint64    version, 1
    uint8     type of the ids: 8 = uint16, 4 = int32
    uint64    sequences
    uint64    entries of the last table: documents + 1
    int32[]   tokens of each sequence
    int64[]   byte at which each sequence begins in `.bin`
    int64[]   sequence with which each document begins, and at the end the number of sequences

as in Megatron-LM `megatron/core/datasets/indexed_dataset.py`, which NeMo and GPT-NeoX read too. Here a document is one sequence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.stage import File, UserError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
VERSION = 1
TYPES: dict[int, np.dtype[Any]] = {8: np.dtype("<u2"), 4: np.dtype("<i4")}
CODES = {dtype: code for code, dtype in TYPES.items()}
UINT16_VOCABULARY = 65_500  # Megatron-LM stores smaller vocabularies as uint16


class TokenShardWriter:
    """Writes `<name>.bin` as documents come and `<name>.idx` at the end. To be used in `with`.

    `documents` and `tokens` count what was written. No documents at all make a valid shard.
    """

    def __init__(self, bin_path: str | os.PathLike[str], vocab_size: int) -> None:
        self._dtype = TYPES[8 if vocab_size < UINT16_VOCABULARY else 4]
        self._path = Path(bin_path)
        self._stream: BinaryIO
        self._lengths: list[int] = []
        self.tokens = 0

    @property
    def documents(self) -> int:
        return len(self._lengths)

    def write(self, ids: Sequence[int] | NDArray[Any]) -> None:
        """Append one document. Raises OverflowError for an id the shard's type cannot hold."""
        wide = np.asarray(ids, dtype=np.int64)
        if len(wide) and not 0 <= wide.min() <= wide.max() <= np.iinfo(self._dtype).max:
            raise OverflowError(f"ids from {wide.min()} to {wide.max()} do not fit into {self._dtype.name}")
        self._stream.write(wide.astype(self._dtype).tobytes())
        self._lengths.append(len(ids))
        self.tokens += len(ids)

    def __enter__(self) -> Self:
        self._stream = open(self._path, "wb")  # closed in __exit__
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if error is None:
            self._write_index()

    def _write_index(self) -> None:
        lengths = np.array(self._lengths, dtype="<i4")
        pointers = _starts(lengths)[:-1] * self._dtype.itemsize
        documents = np.arange(len(lengths) + 1, dtype="<i8")
        with open(self._path.with_suffix(".idx"), "wb") as stream:
            stream.write(HEADER.pack(MAGIC, VERSION, CODES[self._dtype], len(lengths), len(documents)))
            for table in (lengths, pointers, documents):
                stream.write(table.tobytes())


class TokenShardsWriter:
    """Writes shards of at most `shard_tokens` tokens one after another, the n-th at `path(n)`. To be used in `with`.

    A document is never divided: a longer one is a shard of its own. No documents at all make one empty shard. `documents` counts
    those of each shard, `tokens` those of all.
    """

    def __init__(self, path: Callable[[int], str | os.PathLike[str]], vocab_size: int, shard_tokens: int) -> None:
        self._path, self._vocab_size, self._shard_tokens = path, vocab_size, shard_tokens
        self._writers: list[TokenShardWriter] = []
        self._open = ExitStack()

    @property
    def documents(self) -> list[int]:
        return [writer.documents for writer in self._writers]

    @property
    def tokens(self) -> int:
        return sum(writer.tokens for writer in self._writers)

    def write(self, ids: Sequence[int] | NDArray[Any]) -> None:
        """Append one document. Raises OverflowError for an id the shard's type cannot hold."""
        current = self._writers[-1]
        if current.documents and current.tokens + len(ids) > self._shard_tokens:
            self._open.close()
            current = self._begin()
        current.write(ids)

    def _begin(self) -> TokenShardWriter:
        self._writers.append(self._open.enter_context(TokenShardWriter(self._path(len(self._writers)), self._vocab_size)))
        return self._writers[-1]

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)


@dataclass(frozen=True)
class TokenShard:
    """A shard, memory-mapped.

    tokens   [tokens] uint16 or int32, all documents end to end
    offsets  [documents + 1] int64: document d is tokens[offsets[d]:offsets[d + 1]]
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def open(cls, path: str | os.PathLike[str], index: str | os.PathLike[str] | None = None) -> TokenShard:
        """The shard whose `.bin` this is, or whose two files have this path before their suffixes.

        `index` is the `.idx` where that does not stand beside the `.bin` under the same name.
        Raises UserError, naming the file, for one that is absent, cut short, of another format, or does not fit its partner.
        """
        path = os.fspath(path)
        bin_path = path if path.endswith(".bin") else path + ".bin"
        dtype, lengths, documents = _read_index(os.fspath(index or bin_path.removesuffix(".bin") + ".idx"))
        starts = _starts(lengths)
        try:
            size = Path(bin_path).stat().st_size
        except OSError as error:
            raise UserError(f"{bin_path}: cannot be opened ({error.strerror}): copy it beside its .idx or tokenize again") from error
        if size != starts[-1] * dtype.itemsize:
            raise UserError(
                f"{bin_path}: has {size:,} bytes where its .idx counts {starts[-1] * dtype.itemsize:,}: copy both again or tokenize again"
            )
        tokens = np.memmap(bin_path, dtype=dtype, mode="r") if size else np.zeros(0, dtype)  # an empty file cannot be mapped
        return cls(tokens, starts[documents])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[documents] tokens of each document."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.offsets) - 1

    def document(self, number: int) -> NDArray[Any]:
        """[tokens of the document] its ids; raises IndexError beyond the last."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


def open_shards(files: Sequence[File]) -> list[TokenShard]:
    """The shards among an artifact's files (`Artifact.select("train")`), in their order.

    A pair is matched by the files' names: where they are stored, each has a name of its own. Raises UserError for a `.bin` without `.idx`.
    """
    paths = {file.name: file.path for file in files}
    shards = []
    for name, path in paths.items():
        if name.endswith(".bin"):
            index = paths.get(name.removesuffix(".bin") + ".idx")
            if index is None:
                raise UserError(f"{name}: has no .idx beside it: tokenize again")
            shards.append(TokenShard.open(path, index))
    return shards


def count_tokens(files: Sequence[File]) -> int:
    """The tokens in the shards among these files, from the size of each `.bin` and the first bytes of its `.idx`."""
    indexes = {file.name: file.path for file in files if file.name.endswith(".idx")}
    tokens = 0
    for file in files:
        if file.name.endswith(".bin"):
            with open(indexes[file.name.removesuffix(".bin") + ".idx"], "rb") as stream:
                *_, code, _, _ = HEADER.unpack(stream.read(HEADER.size))
            tokens += file.bytes // TYPES[code].itemsize
    return tokens


def _read_index(path: str) -> tuple[np.dtype[Any], NDArray[np.int32], NDArray[np.int64]]:
    """The ids' type, the sequences' lengths and the documents' first sequences, all consistent."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}): copy it beside its .bin or tokenize again") from error
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise UserError(f"{path}: is not the index of a Megatron dataset: tokenize again")
    _, version, code, sequences, entries = HEADER.unpack_from(content)
    if version != VERSION or code not in TYPES:
        raise UserError(f"{path}: has version {version} and type {code}; only version {VERSION} with uint16 or int32 ids is read here")
    if len(content) != HEADER.size + 12 * sequences + 8 * entries:
        raise UserError(f"{path}: has {len(content):,} bytes where its header announces another size: copy it again or tokenize again")
    lengths = np.frombuffer(content, "<i4", sequences, HEADER.size)
    pointers = np.frombuffer(content, "<i8", sequences, HEADER.size + 4 * sequences)
    documents = np.frombuffer(content, "<i8", entries, HEADER.size + 12 * sequences)
    if (
        (lengths < 0).any()
        or not np.array_equal(pointers, _starts(lengths)[:-1] * TYPES[code].itemsize)
        or not entries
        or documents[0] != 0
        or documents[-1] != sequences
        or (np.diff(documents) < 0).any()
    ):
        raise UserError(f"{path}: its tables contradict each other: copy it again or tokenize again")
    return TYPES[code], lengths, documents


def _starts(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """[sequences + 1] where each sequence begins, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(lengths, dtype="<i8"))).astype("<i8")


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A document in the token shards of its unit: the n-th row of a split is the n-th document of that split's shards, in order.

    id      the document's
    split   "train" or "validation"
    tokens  with the end of document, where there is one
    bytes   of its text in UTF-8
    """

    id: str
    split: str
    tokens: int
    bytes: int


def write_index(path: str | os.PathLike[str], rows: Sequence[IndexRow]) -> None:
    """The rows as Parquet, byte-stable."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            pyarrow.field("id", pyarrow.string(), nullable=False),
            pyarrow.field("split", pyarrow.string(), nullable=False),
            pyarrow.field("tokens", pyarrow.int64(), nullable=False),
            pyarrow.field("bytes", pyarrow.int64(), nullable=False),
        ]
    )
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), os.fspath(path), compression="zstd", write_statistics=False)


def read_index(path: str | os.PathLike[str]) -> list[IndexRow]:
    """The rows that `write_index` wrote, in order."""
    import pyarrow.parquet

    return [IndexRow(**row) for row in pyarrow.parquet.read_table(os.fspath(path)).to_pylist()]
