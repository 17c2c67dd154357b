"""A copy of a manifest in which rows of unknown patients are grouped by blocks of consecutive files.

    python tests/benchmarks/file_blocks.py CORPUS build/blocks --source usgra_nerve_vessel
    usfm ingest input=build/blocks output=runs/shards_blocks

Neighbouring files are often of one patient, so blocks keep most pairs of such images on one side of a split, but
nobody knows where a patient begins. What is scored on them is an upper bound and no claim.
"""

import argparse
import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write FOLDER/manifest.csv and a copy of the source's files; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with a manifest.csv")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--source", required=True, help="whose rows, in the manifest's column `source`")
    parser.add_argument("--size", type=int, default=20, help="files of a block")
    options = parser.parse_args(arguments)
    with (options.corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == options.source]
    rows.sort(key=lambda row: row["path"])
    if not rows:
        parser.error(f"no rows of {options.source} in {options.corpus / 'manifest.csv'}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for top in {Path(row[key]).parts[0] for row in rows for key in ("path", "mask_path") if row[key]}:
        if not (options.folder / top).exists():
            shutil.copytree(options.corpus / top, options.folder / top)  # ingest follows no link out of an archive
    with (options.folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"group": f"block {n // options.size}"} for n, row in enumerate(rows))
    print(f"{len(rows)} rows in {-(-len(rows) // options.size)} blocks: {options.folder / 'manifest.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
