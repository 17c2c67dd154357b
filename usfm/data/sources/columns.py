"""The small tables that public sets ship beside their files: CSV with a header, `,` or `;` between the columns."""

import csv
import io
from collections.abc import Iterator

from upath import UPath

from usfm.errors import DataError

__all__ = ["read_columns", "read_table"]


def read_columns(path: UPath, required: tuple[str, ...] = ()) -> list[str]:
    """The header of a table, names stripped.

    Raises:
        DataError: it cannot be read, or lacks a required column.
    """
    return next(_rows(path, required))


def read_table(path: UPath, required: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """The lines of a table, one at a time, values stripped; missing values are "".

    Raises:
        DataError: it cannot be read, or lacks a required column.
    """
    rows = _rows(path, required)
    columns = next(rows)
    for values in rows:
        if any(values):
            yield dict(zip(columns, values + [""] * (len(columns) - len(values)), strict=False))


def _rows(path: UPath, required: tuple[str, ...]) -> Iterator[list[str]]:
    """The header, checked, then each line."""
    try:
        with io.TextIOWrapper(path.open("rb"), encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            delimiter = ";" if first.count(";") > first.count(",") else ","
            columns = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
            if missing := [name for name in required if name not in columns]:
                has = ", ".join(columns) or "none"
                raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {has}")
            yield columns
            for values in csv.reader(text, delimiter=delimiter):
                yield [value.strip() for value in values]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV text file in UTF-8: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
