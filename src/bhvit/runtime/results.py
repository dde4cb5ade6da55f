"""Answers as JSON lines, CSV or parquet, complete after any interruption.

There is one record for each picture.

While a run goes on, each record is appended at once to a journal next to the file, `.NAME.journal`, JSON lines below a
line that says what made them. A run that is killed leaves the journal; the next one with `resume` cuts off a last line
that is not whole, and goes on after the pictures that it holds. At the end the journal becomes the file, at once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import UserError, require_extra
from ..files import PART, check_absent, check_regular, flush, lock

FORMATS = (".jsonl", ".csv", ".parquet")
Record = Mapping[str, Any]
"""What is said of a picture, as JSON holds it; "image" is its name."""
Columns = Mapping[str, type[str] | type[float]]
"""Names of a table's columns, and what they hold."""
_BLOCK = 4096
"""Rows of a parquet file that are written at once."""


class Results:
    """A file of records that is being written."""

    def __init__(
        self,
        path: str | Path,
        columns: Columns,
        row: Callable[[Record], Mapping[str, Any]],
        *,
        made_by: Mapping[str, Any],
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """`row` turns a record into a table's row of `columns`; absent ones stay empty.

        `made_by` says what determines the answers, such as model and options: a run goes on only where it is the same.
        Raises UserError for another ending than those of `FORMATS`, a file or journal that exists (unless `force`
        replaces it or `resume` goes on), a journal of other answers, and a folder that cannot be written.
        """
        self.path = Path(path)
        self._columns, self._row = columns, row
        self.done: Counter[str] = Counter()
        """How often each picture has been answered."""
        self.failed = 0
        """Records with an error, those of an earlier run included."""
        self.complete = False
        """An earlier run has finished the file; nothing is left to do."""
        self._journal: IO[bytes] | None = None
        if self.path.suffix.lower() not in FORMATS:
            raise UserError(f"{self.path} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
        if self.path.suffix.lower() == ".parquet":
            _arrow()
        self._journal_path = self.path.with_name(f".{self.path.name}.journal")
        if resume and self.path.exists() and not self._journal_path.exists():
            check_regular(self.path)
            self.complete = True
            return
        check_absent(self.path, force or resume)
        if self._journal_path.exists() and not (force or resume):
            raise UserError(
                f"{self.path} was begun by a run that was interrupted: --resume goes on, --force starts again"
            )
        self._open(json.dumps(made_by, sort_keys=True), resume)

    def read_finished(self, count: int) -> dict[str, dict[str, Any]]:
        """Count the answers of a finished file, and return the first `count` of them as rows, by name.

        Pictures that could not be read, or are named twice, are not among these. Raises UserError if the file has other
        columns or is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        for row in self._rows():
            name = row["image"]
            self.done[name] += 1
            self.failed += row.get("error") is not None
            if name in found:
                del found[name]
            elif len(found) < count and row.get("error") is None and self.done[name] == 1:
                found[name] = row
        return found

    def as_row(self, record: Record) -> dict[str, Any]:
        """Return a record as `read_finished` reads it."""
        return self._whole(self._row(record))

    def write(self, record: Record) -> None:
        """Append a record; it is kept whatever happens to this process afterwards."""
        assert self._journal is not None
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # the name of a file that is no text
            line = json.dumps(record, allow_nan=False).encode()
        try:
            self._append(self._journal, line + b"\n")
        except OSError as error:
            raise UserError(f"cannot write {self._journal_path}: {error.strerror}; --resume goes on") from None
        self._count(record)

    def finish(self) -> None:
        """Make the file, whole and at once, and remove the journal."""
        if self._journal is None:
            return
        target = Path(os.path.realpath(self.path))  # a link may lead to another file system
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
        try:
            with part.open("xb") as file:
                self._convert(file)
                flush(file)
            part.replace(target)
        except OSError as error:
            reason = error.strerror or error  # pyarrow's have none
            raise UserError(f"cannot write {self.path}: {reason}; --resume goes on from its journal") from error
        finally:
            part.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the journal as it is, for another run to go on."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, record: Record) -> None:
        self.done[record["image"]] += 1
        self.failed += "error" in record

    def _append(self, journal: IO[bytes], line: bytes) -> None:
        written = journal.write(line)
        while written < len(line):  # a disk that is nearly full takes a part
            written += journal.write(line[written:])

    def _open(self, header: str, resume: bool) -> None:
        check_regular(self._journal_path)
        try:
            journal = self._journal_path.open("r+b" if self._journal_path.exists() else "x+b", buffering=0)
        except OSError as error:
            raise UserError(f"cannot write {self._journal_path}: {error.strerror}") from None
        try:
            lock(journal.fileno())
            if not (resume and self._read(journal, header)):
                journal.seek(0)
                journal.truncate()
                self._append(journal, header.encode() + b"\n")
        except BlockingIOError:
            journal.close()
            raise UserError(f"another run is writing {self.path}: wait for it, or choose another name") from None
        except OSError as error:
            journal.close()
            raise UserError(f"cannot write {self._journal_path}: {error.strerror}") from None
        except BaseException:
            journal.close()
            raise
        self._journal = journal

    def _read(self, journal: IO[bytes], header: str) -> bool:
        """Go to the end of the whole records of a journal, and count them. False if it does not even have a header."""
        end = 0
        for number, line in enumerate(_lines(self._journal_path)):
            if not line.endswith(b"\n"):
                break  # its run was killed while it wrote this
            if number == 0 and line.decode(errors="replace").rstrip("\n") != header:
                raise UserError(
                    f"{self.path} was begun with another model or other options: give the same ones, or --force starts "
                    "again"
                )
            if number:
                self._count(self._record(line, number))
            end += len(line)
        journal.truncate(end)
        journal.seek(end)
        return end > 0

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            row = self._row(record)
            if isinstance(record["image"], str) and all(_fits(row[name], self._columns[name]) for name in row):
                return dict(record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise UserError(f"{self._journal_path} is damaged in line {number + 1}: --force starts again")

    def _records(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(_lines(self._journal_path)):
            if number:
                yield self._record(line, number)

    def _whole(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """All columns of a row, absent ones as None."""
        if not row.keys() <= self._columns.keys():
            raise self._others()
        return {name: _utf8(row.get(name)) for name in self._columns}

    def _others(self) -> UserError:
        return UserError(f"{self.path} was made with other options: give the same ones, or --force starts again")

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the finished file."""
        kind = self.path.suffix.lower()
        try:
            if kind == ".jsonl":
                for line in _lines(self.path):
                    yield self._whole(self._row(json.loads(line)))
            elif kind == ".csv":
                with self.path.open(encoding="utf-8", newline="") as text:
                    table = csv.DictReader(text)
                    if table.fieldnames != list(self._columns):
                        raise self._others()
                    for row in table:
                        yield {name: kind(row[name]) if row[name] else None for name, kind in self._columns.items()}
            else:
                _, parquet = _arrow()
                file = parquet.ParquetFile(self.path)
                if file.schema_arrow.names != list(self._columns):
                    raise self._others()
                for batch in file.iter_batches(_BLOCK):
                    yield from batch.to_pylist()
        except UserError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise UserError(f"cannot read the answers in {self.path}: {reason}; --force starts again") from None

    def _convert(self, file: IO[bytes]) -> None:
        kind = self.path.suffix.lower()
        if kind == ".jsonl":
            lines = _lines(self._journal_path)
            next(lines)
            for line in lines:
                file.write(line)
        elif kind == ".csv":
            text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="", write_through=True)
            writer = csv.DictWriter(text, list(self._columns), restval="")
            writer.writeheader()
            writer.writerows(map(self._row, self._records()))
            text.detach()
        else:
            self._write_parquet(file)

    def _write_parquet(self, file: IO[bytes]) -> None:
        arrow, parquet = _arrow()
        types = {str: arrow.string(), float: arrow.float64()}
        schema = arrow.schema([(name, types[kind]) for name, kind in self._columns.items()])
        rows: list[dict[str, Any]] = []
        with parquet.ParquetWriter(file, schema) as writer:
            for record in self._records():
                rows.append({name: _utf8(value) for name, value in self._row(record).items()})
                if len(rows) == _BLOCK:
                    writer.write_table(arrow.Table.from_pylist(rows, schema))
                    rows.clear()
            writer.write_table(arrow.Table.from_pylist(rows, schema))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _fits(value: Any, kind: type[str] | type[float]) -> bool:
    """Whether a table's column can hold a value; it may be absent."""
    if kind is float and type(value) is int:
        return abs(value) < 1 << 53
    return value is None or isinstance(value, kind)


def _utf8(value: Any) -> Any:
    """Names of files may hold bytes that are no text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise require_extra("pyarrow", "parquet") from None
    return pyarrow, pyarrow.parquet
