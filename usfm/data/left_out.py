"""What a task does not use of its rows, as plans, the console and pages say it."""

from collections import Counter
from collections.abc import Mapping

from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig

__all__ = ["left_out", "left_out_line", "left_out_text"]

SHOWN = 5


def left_out(sets: Mapping[str, LabelledSet], task: TaskConfig) -> dict[str, dict[str, int]]:
    """How often a task leaves something out, by split and reason; {} = it leaves nothing out.

    Args:
        sets: train, val and test of the task.
        task: of one in folds the rows are chosen before they are dealt, so its one split is "all".
    """
    named = {"all": sets["train"]} if task.split_by == "folds" else sets
    return {split: data.left_out for split, data in named.items() if data.left_out}


def left_out_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """One line of text for the counts of `left_out`, the most frequent reasons first; "" = nothing is left out."""
    total: Counter[str] = Counter()
    for of_split in counts.values():
        total.update(of_split)
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{reason} ({count} row{'s' if count > 1 else ''})" for reason, count in ordered[:SHOWN]]
    if rest := ordered[SHOWN:]:
        said.append(f"{len(rest)} further reasons ({sum(count for _, count in rest)} rows)")
    return "; ".join(said)


def left_out_line(task: str, counts: Mapping[str, Mapping[str, int]], what: str = "task") -> str:
    """`left_out_text` as the console says it of a task; "" = nothing is left out.

    Args:
        task: its name.
        counts: as of `left_out_text`.
        what: it is: "task" or "probe task".
    """
    said = left_out_text(counts)
    return said and f"{what} {task} leaves out: {said}"
