"""What an erasure looks for afterwards, and how it looks into files. Pure."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

_SHORTEST = 4  # characters: shorter texts are found everywhere


@dataclass(frozen=True)
class Needles:
    """What must not be found any more.

    :param keys: the erased keys, in every spelling that was met.
    :param values: texts that only rows of these keys had.
    """

    keys: frozenset[str]
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[str], values: Iterable[str]) -> Needles:
        """Keep what can tell one row from another."""
        return cls(frozenset(keys), frozenset(value for value in values if len(value) >= _SHORTEST))

    @property
    def texts(self) -> tuple[bytes, ...]:
        """Everything to look for, as UTF-8."""
        return tuple(text.encode() for text in sorted(self.keys | self.values))

    def in_bytes(self, content: bytes) -> int:
        """How many of them stand in some bytes."""
        escaped = content.replace(b'\\"', b'"') if b'\\"' in content else content
        return sum(text in content or text in escaped for text in self.texts)

    def in_file(self, name: str, content: bytes) -> int:
        """How many of them stand in a file of a table; Parquet and Avro are unpacked.

        :param name: its ending tells the format.
        """
        if name.endswith(".parquet"):
            return self._in_parquet(content)
        return self.in_bytes(unpacked_avro(content) if content.startswith(b"Obj\x01") else content)

    def _in_parquet(self, content: bytes) -> int:
        file = pq.ParquetFile(io.BytesIO(content))
        names = [field.name for field in file.schema_arrow if _holds_text(field.type)]
        found: set[bytes] = set()
        for group in range(file.num_row_groups):
            for column in file.read_row_group(group, names).columns:
                values = column.unique() if pa.types.is_string(column.type) else column
                joined = "\n".join(str(value) for value in values.to_pylist() if value)
                raw = joined.encode(errors="surrogatepass")
                found |= {text for text in self.texts if text in raw or text in raw.replace(b'\\"', b'"')}
        return len(found)


def _holds_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_map(kind) or pa.types.is_list(kind))


def unpacked_avro(content: bytes) -> bytes:
    """The blocks of an Avro container file, decompressed where they are deflated; bounds in manifests stand there.

    :param content: the file.
    """
    position = 4
    deflated = False
    while True:
        count, position = _long(content, position)
        if count == 0:
            break
        if count < 0:
            _, position = _long(content, position)
        for _ in range(abs(count)):
            name, position = _bytes(content, position)
            value, position = _bytes(content, position)
            deflated = deflated or (name == b"avro.codec" and value == b"deflate")
    blocks = [content[:position]]
    position += 16  # the sync marker
    while position < len(content):
        _, position = _long(content, position)
        block, position = _bytes(content, position)
        blocks.append(zlib.decompress(block, -15) if deflated else block)
        position += 16
    return b"\n".join(blocks)


def _long(content: bytes, position: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), position


def _bytes(content: bytes, position: int) -> tuple[bytes, int]:
    length, position = _long(content, position)
    return content[position : position + length], position + length
