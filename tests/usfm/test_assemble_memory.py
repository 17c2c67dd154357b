"""Memory of the assembly: the same for a thousand rows and for a hundred thousand."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import resource, sys
import numpy as np, pyarrow as pa
from usfm.data.assemble import assemble
from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.fragments import FRAGMENT_SCHEMA, fragment_path
from usfm.data.location import locate, writing
from usfm.data.prepare import PrepareConfig
from usfm.data.split import SplitConfig

output, count, size = locate(sys.argv[1]), int(sys.argv[2]), 1000
rng = np.random.default_rng(0)
keys = []
for start in range(0, count, size):
    numbers = range(start, start + size)
    constant = lambda value, name: pa.array([value] * size, FRAGMENT_SCHEMA.field(name).type)
    made = {
        "id": [f"s/{n:07d}.png#0" for n in numbers],
        "organ": [f"organ{n % 5}" for n in numbers],
        "group": [f"s/patient{n // 10}" for n in numbers],
        "label": [f"label{n % 3}" for n in numbers],
        "image": [bytes(300)] * size,
        "phash": rng.integers(-2**63, 2**63 - 1, size),
        "thumbnail": [row.tobytes() for row in rng.integers(0, 256, (size, 256)).astype(np.uint8)],
        "source_sha256": [f"{n:064d}" for n in numbers],
        "crop": [[0, 0, 1, 1]] * size,
    }
    blank = {"string": "", "int32": 0, "binary": None, "double": None}
    columns = [
        pa.array(made[f.name], f.type) if f.name in made else constant(blank[str(f.type)], f.name)
        for f in FRAGMENT_SCHEMA
    ]
    keys.append(f"k{start:07d}")
    table = pa.Table.from_arrays(columns, schema=FRAGMENT_SCHEMA).replace_schema_metadata({"rejected": "[]"})
    with writing(fragment_path(output, keys[-1])) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    del table, columns, made
made = assemble(iter(keys), output, "name", 2048, prepare=PrepareConfig(), split=SplitConfig(),
                duplicates=DuplicateConfig())
assert sum(sum(splits.values()) for splits in made.rows.values()) == count, made
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(folder: Path, rows: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / str(rows)), str(rows)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_stays_flat(tmp_path: Path) -> None:
    small, large = peak_kb(tmp_path, 1000), peak_kb(tmp_path, 100_000)
    # caches of fixed size fill up: SQLite's (32 MB) and the last sorted run of hashes
    assert large < 1.4 * small, f"{small >> 10} MB for 1,000 rows, {large >> 10} MB for 100,000"
    print(f"{small >> 10} MB for 1,000 rows, {large >> 10} MB for 100,000")
