"""Which names of files are taken, and how a name that is refused is shown."""

import re
import unicodedata
from pathlib import PurePosixPath

__all__ = ["MAX_NAME_BYTES", "name_problem", "posix", "printable"]

MAX_NAME_BYTES = 1024
"""Longest path below the archive's root; the limit of object stores."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_URL = re.compile(r"::|(?:^|/)(?:data:|[A-Za-z][A-Za-z0-9+.-]+:(?:/|$))")


def posix(text: str) -> str:
    """A stated path with forward slashes and without `./`; `..` stays, to be refused."""
    return PurePosixPath(text.replace("\\", "/")).as_posix() if text else ""


def printable(name: str) -> str:
    """The name as a table can hold it: UTF-8, one line, not endless."""
    shown = "".join(c if unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in name[: MAX_NAME_BYTES // 4])
    return shown if len(name) <= MAX_NAME_BYTES // 4 else f"{shown}..."


def name_problem(name: str) -> str:
    """Why a path relative to the root cannot be used, "" if it can.

    Names become part of row ids, of CSV tables and of URLs, so they are UTF-8, one line, of bounded length,
    and stay below the root.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the name is not UTF-8; rename the file"
    if size > MAX_NAME_BYTES:
        return f"the name has {size} bytes; at most {MAX_NAME_BYTES} are taken"
    if _CONTROL.search(name):
        return "the name holds a line break or another control character; rename the file"
    if _URL.search(name):
        return "the name reads like a URL ('data:', 'x:/' or '::'), which must not be followed; rename the file"
    if name.startswith("/") or ".." in name.split("/"):
        return "the path leaves the archive's folder (through .., an absolute path or a link); it was not read"
    return ""
