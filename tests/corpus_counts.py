"""What an ingest of the whole corpus must count to: `python tests/corpus_counts.py SHARDS` writes the table anew.

Look at the difference before you commit it: a number that moved is a reader, a cleaning step or a split that moved.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from usfm.data.assemble import read_quarantine
from usfm.data.shard_reader import ShardReader

TABLE = Path(__file__).with_suffix(".json")
COLUMNS = ("id", "organ", "source", "split", "mask", "pair", "flags", "text_px", "spacing_mm")


def counts(shards: Path) -> dict[str, Any]:
    """Items, frames, organs, sources and refusals of a set of shards."""
    reader = ShardReader(shards)
    rows = reader.table(reader.index.files).select(COLUMNS).to_pydict()
    items = {name.rpartition("#")[0]: source for name, source in zip(rows["id"], rows["source"], strict=True)}
    return {
        "items": len(items),
        "frames": len(rows["id"]),
        "frames_by_organ": dict(sorted(Counter(rows["organ"]).items())),
        "frames_by_source": dict(sorted(Counter(rows["source"]).items())),
        "items_by_source": dict(sorted(Counter(items.values()).items())),
        "frames_by_split": dict(sorted(Counter(rows["split"]).items())),
        "masks": sum(mask is not None for mask in rows["mask"]),
        "pairs": sum(pair is not None for pair in rows["pair"]),
        "with_spacing": sum(spacing is not None for spacing in rows["spacing_mm"]),
        "with_painted_text": sum(count > 0 for count in rows["text_px"]),
        "flags": dict(sorted(Counter(flag for flags in rows["flags"] for flag in flags.split()).items())),
        "quarantined": dict(sorted(Counter(entry.kind for entry in read_quarantine(shards)).items())),
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps(counts(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {TABLE}")
