"""The numbers of a data card as one JSON document; the page shows nothing that is not in here, but for pictures.

Keys (rows = stored images, shares lie in [0, 1], what is not known is null or "" and counted as such):

version, shards, fingerprint, seed: of this layout (1); location; fingerprint of the ingest; seed of the samples.
prepare: how items became rows, as the ingest was configured; {} = not known.
rows, files, bytes: in all; files are shards.
splits, licences, devices, flags: rows by value.
licence_flags: rows by NC (non-commercial), SA (share-alike), ND (no derivatives).
unknown: rows without device, spacing, group, label, mask, licence.
sources[name]:
    rows; files (distinct), files_exact; organs, licences, devices: rows by value; origins (some texts).
organs[name]:
    rows; splits; groups (distinct, by split), groups_exact, ungrouped (rows without one).
    sources, devices, licences, flags: rows by value. labels: rows by label, numbers in labels replaced by "#".
    masked, paired, cropped, with_text: rows.
    height, width, source_height, source_width (px), spacing_mm (per stored px), crop_removed (share of the file's
    image), text_share (share of the stored pixels painted over, of rows with any): null, or count, mean, min, p05,
    p50, p95, max.
    pixels: of the sampled rows, see `usfm.report.data_pixels.PixelNumbers`.
bands: radii_cycles of USFM's default frequency bands at image_px.
quarantine: see `usfm.report.data_records.quarantine_records`; null = there is no table.
privacy: text_report_lines (null = no report); with_text, stated, not_painted (rows).
contamination: summaries of `usfm.data.contamination.write_contamination`, with `current`: of these very shards.
"""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from usfm.data.ledger import licence_flags
from usfm.data.schema import FLAGS, SPLITS
from usfm.data.shards import ShardIndex
from usfm.data.sources.found import NOT_STATED
from usfm.report.data_counts import TEXT_FLAGS, Counts
from usfm.report.data_pixels import SPECTRUM_PX, PixelNumbers
from usfm.report.data_records import contamination_records, quarantine_records, text_report_lines

__all__ = ["card_document"]

VERSION = 1


def card_document(
    index: ShardIndex, counts: Counts, pixels: dict[str, PixelNumbers], radii: list[int], seed: int, listed: int
) -> dict[str, Any]:
    """Put the document together.

    Args:
        index: of the shards.
        counts: of all rows.
        pixels: of the sampled rows, by organ.
        radii: of the frequency bands, in cycles per image.
        seed: that drew the sample.
        listed: refusals that are given whole.
    """
    sources = sorted({file.source for file in index.files} | set(_named(counts.by("source"))) - {""})
    licences = _named(counts.by("licence"))
    flags = _flag_rows(_named(counts.by("flags")))
    texted = sum(rows for (found,), rows in counts.by("texted").items() if found)
    not_painted = sum(
        rows for (names, found), rows in counts.by("flags", "texted").items()
        if not found and set(TEXT_FLAGS) & set(str(names).split())
    )  # fmt: skip
    return {
        "version": VERSION,
        "shards": str(index.root),
        "fingerprint": index.fingerprint,
        "seed": seed,
        "prepare": index.prepare,
        "rows": sum(counts.cells.values()),
        "files": len(index.files),
        "bytes": sum(file.bytes for file in index.files),
        "splits": {split: _named(counts.by("split")).get(split, 0) for split in SPLITS},
        "licences": licences,
        "devices": _named(counts.by("device")),
        "flags": flags,
        "licence_flags": {
            flag: sum(rows for licence, rows in licences.items() if flag in licence_flags(licence))
            for flag in ("NC", "SA", "ND")
        },
        "unknown": {
            "device": _named(counts.by("device")).get("", 0),
            "spacing": counts.by("spaced")[False,],
            "group": counts.by("grouped")[False,],
            "label": sum(of[""] for of in counts.labels.values()),
            "mask": counts.by("masked")[False,],
            "licence": licences.get("", 0) + licences.get(NOT_STATED, 0),
        },
        "sources": {source: _source(source, counts) for source in sources},
        "organs": {organ: _organ(organ, counts, pixels.get(organ)) for organ in sorted(counts.numbers)},
        "bands": {"radii_cycles": radii, "image_px": SPECTRUM_PX},
        "quarantine": quarantine_records(index.root, sources, listed),
        "privacy": {
            "text_report_lines": text_report_lines(index.root),
            "with_text": texted,
            "stated": flags["burned_in_stated"],
            "not_painted": not_painted,
        },
        "contamination": [
            {**summary, "current": summary.get("fingerprint") == index.fingerprint}
            for summary in contamination_records(index.root)
        ],
    }


def _source(source: str, counts: Counts) -> dict[str, Any]:
    return {
        "rows": counts.by("source")[source,],
        "files": counts.files[source].count,
        "files_exact": counts.files[source].exact,
        **{
            f"{name}s": _named(Counter({(value,): rows for (of, value), rows in counts.by("source", name).items()
                                        if of == source}))
            for name in ("organ", "licence", "device")
        },
        "origins": counts.origins[source],
    }  # fmt: skip


def _organ(organ: str, counts: Counts, pixels: PixelNumbers | None) -> dict[str, Any]:
    def of_organ(name: str) -> Counter[tuple[str | bool, ...]]:
        cells = counts.by("organ", name)
        return Counter({(value,): rows for (of, value), rows in cells.items() if of == organ})

    groups = {split: counts.groups[organ, split] for split in SPLITS if (organ, split) in counts.groups}
    labels = sorted(counts.labels[organ].items(), key=lambda item: (-item[1], item[0]))
    splits = _named(of_organ("split"))
    return {
        "rows": sum(splits.values()),
        "splits": {split: splits.get(split, 0) for split in SPLITS},
        "groups": {split: groups[split].count if split in groups else 0 for split in SPLITS},
        "groups_exact": all(counted.exact for counted in groups.values()),
        "ungrouped": of_organ("grouped")[False,],
        "sources": _named(of_organ("source")),
        "devices": _named(of_organ("device")),
        "licences": _named(of_organ("licence")),
        "flags": _flag_rows(_named(of_organ("flags"))),
        "labels": dict(labels),
        "masked": of_organ("masked")[True,],
        "paired": of_organ("paired")[True,],
        "cropped": of_organ("cropped")[True,],
        "with_text": of_organ("texted")[True,],
        **{name: spread.summary() for name, spread in vars(counts.numbers[organ]).items()},
        "pixels": None if pixels is None else _plain(pixels),
    }


def _named(counted: Counter[tuple[str | bool, ...]]) -> dict[str, int]:
    """Rows by the one value of each key, the most frequent first."""
    ordered = sorted(counted.items(), key=lambda item: (-item[1], str(item[0][0])))
    return {str(value): rows for (value,), rows in ordered if rows}


def _flag_rows(by_text: dict[str, int]) -> dict[str, int]:
    """Rows by single flag, from rows by space-separated flags."""
    return {flag: sum(rows for text, rows in by_text.items() if flag in text.split()) for flag in FLAGS}


def _plain(pixels: PixelNumbers) -> dict[str, Any]:
    """Numbers for JSON: rounded to what a sample can say."""
    return {
        name: [round(float(number), 6) for number in value] if isinstance(value, np.ndarray) else round(value, 6)
        for name, value in asdict(pixels).items()
    }
