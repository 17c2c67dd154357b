"""The label-efficiency plot of a sweep as one small page of its own."""

from html import escape
from pathlib import Path

from usfm.report.figures import label_curve
from usfm.report.numbers import label_efficiency, read_trials

__all__ = ["write_label_curves"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Label efficiency</title><style>
:root {{ --page: #f7f7f5; --card: #fff; --ink: #22262b; --soft: #5d656e; --line: #dddfe1; --muted: #9aa1a8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b5608f; --c4: #b97f00; --c5: #3a93c9; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #14171a; --card: #1b1f23; --ink: #dfe3e7; --soft: #9aa4ad;
  --line: #343a40; --muted: #6f7982; --c0: #56b4e9; --c1: #f0853d; --c2: #2fbf98; --c3: #d99bbd; }} }}
body {{ margin: 2rem auto; max-width: 40rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }}
figure {{ margin: 1.5rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line); }}
figcaption {{ color: var(--soft); }} svg {{ width: 100%; height: auto; }}
</style></head><body><h1>Label efficiency</h1>
<p>Line: mean over seeds. Dots: single seeds. Band: least to largest. Numbers: results.csv beside this page.</p>
{figures}
</body></html>
"""


def write_label_curves(results: Path, out: Path) -> Path:
    """Draw one chart per task of a sweep's results.csv; returns `out`. Trials without a score are left out."""
    trials = read_trials(results)
    inits = sorted({trial.init for trial in trials})
    charts = [
        f"<figure>{label_curve(points, inits)}<figcaption>{escape(task)}</figcaption></figure>"
        for task, points in label_efficiency(trials).items()
    ]
    out.write_text(PAGE.format(figures="\n".join(charts)), encoding="utf-8")
    return out
