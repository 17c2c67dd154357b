"""What ingest wrote beside the shards, for the data card: refusals, duplicates, burned-in text, contamination.

Tables are streamed; what is kept of them grows with the number of kinds of lines, not with the number of lines.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from upath import UPath

from usfm.data.assemble import QUARANTINE_NAME, TEXT_NAME
from usfm.data.contamination import CONTAMINATION
from usfm.errors import ShardError

__all__ = ["contamination_records", "quarantine_records", "text_report_lines"]

DUPLICATES = {"duplicate": "exact", "near_duplicate": "near"}
NOT_KNOWN = "(not known)"
MAX_CLASSES = 300
EXAMPLES = 3
_KEPT = re.compile(r"\b(?:as|like) (?P<id>\S.*), which was kept")
# what differs between two reasons of the same class, in this order
_VARIABLE = (
    (re.compile(r"'[^']*'|\"[^\"]*\"|“[^”]*”"), "“…”"),
    (re.compile(r"\b(?:[0-9a-f]{8,}|0x[0-9a-f]+)\b(?:\.\.\.)?"), "…"),
    # not the numbers in MP4 or SHA-256, yet both of 640x480
    (re.compile(r"(?<![a-wyzA-WYZ])(?<![A-Za-z]-)[-+]?\b\d+(?:[.,]\d+)*(?:e[-+]?\d+)?|(?<=\dx)\d+"), "#"),
)


def quarantine_records(root: UPath, sources: Sequence[str], listed: int) -> dict[str, Any] | None:
    """The quarantine table, summed up; None where there is none.

    Args:
        root: folder of the shards.
        sources: names of the data sets, to tell the source of the row that was kept.
        listed: so many refusals (duplicates aside) are given whole.

    Returns:
        `entries` (lines), `kinds` (lines by kind), `classes` (kind, reason with numbers replaced by "#", count,
        examples; the most frequent first), `lines` (the first ones whole), `refused` (lines that are no
        duplicates), and `duplicates`: `exact`, `near`, and `pairs` (source of the removed and of the kept row).
    """
    path = root / QUARANTINE_NAME
    kinds: Counter[str] = Counter()
    classes: dict[tuple[str, str], dict[str, Any]] = {}
    lines: list[dict[str, str]] = []
    pairs: dict[tuple[str, str], Counter[str]] = {}
    if not path.exists():
        return None
    for line in _lines(path, ("name", "source", "kind", "reason")):
        kinds[line["kind"]] += 1
        if kind := DUPLICATES.get(line["kind"]):
            key = (line["source"], _source_of_kept(line["reason"], sources))
            pairs.setdefault(key, Counter())[kind] += 1
            continue
        if len(lines) < listed:
            lines.append(line)
        _classify(line, classes)
    counts = [
        {"removed": removed, "kept": kept, "exact": found["exact"], "near": found["near"]}
        for (removed, kept), found in sorted(pairs.items(), key=lambda item: (-item[1].total(), item[0]))
    ]
    return {
        "entries": kinds.total(),
        "kinds": dict(sorted(kinds.items())),
        "refused": sum(number for kind, number in kinds.items() if kind not in DUPLICATES),
        "classes": sorted(classes.values(), key=lambda entry: (-entry["count"], entry["kind"], entry["reason"])),
        "lines": lines,
        "duplicates": {"exact": kinds["duplicate"], "near": kinds["near_duplicate"], "pairs": counts},
    }


def text_report_lines(root: UPath) -> int | None:
    """Number of images in the burned-in-text report; None where there is none."""
    path = root / TEXT_NAME
    return sum(1 for _ in _lines(path, ("id",))) if path.exists() else None


def contamination_records(root: UPath) -> list[dict[str, Any]]:
    """The summaries of `usfm.data.contamination.write_contamination` beside the shards, in name order."""
    folder = root / CONTAMINATION
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json"), key=str) if folder.exists() else ():
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ShardError(f"{path} is no valid JSON ({error}); run `usfm data contamination` again") from None
    return found


def _lines(path: UPath, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    try:
        with path.open("r", encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream)
            if missing := [name for name in columns if name not in (table.fieldnames or ())]:
                raise ShardError(f"{path} lacks the columns {', '.join(missing)}; run `usfm ingest` again")
            yield from table
    except (UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path} is not a CSV text file in UTF-8: {error}") from None


def _classify(line: dict[str, str], classes: dict[tuple[str, str], dict[str, Any]]) -> None:
    reason = line["reason"]
    for pattern, sign in _VARIABLE:
        reason = pattern.sub(sign, reason)
    key = (line["kind"], reason)
    if key not in classes and len(classes) >= MAX_CLASSES:
        key = (line["kind"], "(further reasons)")
    entry = classes.setdefault(key, {"kind": key[0], "reason": key[1], "count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < EXAMPLES:
        entry["examples"].append({"source": line["source"], "name": line["name"], "reason": line["reason"]})


def _source_of_kept(reason: str, sources: Sequence[str]) -> str:
    found = _KEPT.search(reason)
    fitting = [source for source in sources if found and found["id"].startswith(source + "/")]
    return max(fitting, key=len, default=NOT_KNOWN)
