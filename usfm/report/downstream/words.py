"""Scores, and shares of the labels, in words for pages and charts."""

from usfm.report.downstream.matches import Match
from usfm.report.template import percent, share

__all__ = ["bounded", "reached", "readable"]

NAMES = {
    "dice": "Dice", "iou": "IoU", "auroc": "AUROC", "auprc": "AUPRC", "ece": "ECE", "mae": "MAE", "rmse": "RMSE",
    "psnr": "PSNR, dB", "ssim": "SSIM", "macro_f1": "Macro F1", "gcnr": "gCNR", "hd95_px": "HD95, px",
    "hd95_mm": "HD95, mm", "assd_px": "ASSD, px", "assd_mm": "ASSD, mm", "missed": "One mask empty, share",
    "sensitivity": "Sensitivity", "specificity": "Specificity",
    "pearson": "Pearson’s r", "loa_low": "Limit of agreement, lower", "loa_high": "Limit of agreement, upper",
    "circumference_mae_mm": "MAE of the circumference, mm",
}  # fmt: skip


def readable(metric: str) -> str:
    """Name of a score for a reader."""
    if metric.endswith("_input"):
        return f"{readable(metric.removesuffix('_input'))} of the input"
    if metric in NAMES:
        return NAMES[metric]
    score = max((name for name in NAMES if metric.startswith(f"{name}_")), key=len, default=None)
    if score is not None:  # of one class
        return f"{NAMES[score]}, {metric.removeprefix(f'{score}_').replace('_', ' ')}"
    text = metric.replace("_", " ")
    return text[:1].upper() + text[1:]


def reached(match: Match) -> str:
    """The fraction of a match for a reader."""
    if match.fraction is None:
        return "not reached"
    if match.fraction <= match.least:
        return f"at most {share(match.least)}"
    return percent(match.fraction, 0 if match.fraction >= 0.095 else 1)


def bounded(match: Match) -> str:
    """Between which tried fractions a match lies, as far as paired differences decide it, and their seeds."""
    sides = (("worse", match.worse_at), ("better", match.better_at))
    said = [f"{what} with {share(at)}" for what, at in sides if at is not None]
    fewest, most = match.fewest_seeds, match.most_seeds
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' if most > 1 else ''}"
    return f"{', '.join(said) or 'not decided'}; {seeds}"
