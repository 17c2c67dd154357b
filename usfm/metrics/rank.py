"""How many directions a set of features uses: a collapsed encoder shows here long before a label is asked.

Source: RankMe (Garrido et al., ICML 2023, arXiv 2210.02885), Eq. 1.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["mean_cosine", "rankme"]

Floats = npt.NDArray[np.floating]
EPSILON = 1e-7  # RankMe's, added to every share


def rankme(features: Floats) -> float:
    """Effective rank: exp of the entropy of the singular values' shares.

    Args:
        features: (n, D), n >= 1, as the encoder gives them (not centred).

    Returns:
        About 1 where all rows are parallel, at most min(n, D); 0 where all features are zero.
    """
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    shares = singular / total + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_cosine(features: Floats) -> float:
    """Mean cosine similarity over all pairs of different rows, in [-1, 1]; 1 = all rows point the same way.

    Args:
        features: (n, D), n >= 2; a row of zeros is at 0 to every other.
    """
    rows = features.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    n, ones = len(unit), float((length > 0).sum())
    return float((np.square(unit.sum(axis=0)).sum() - ones) / (n * (n - 1)))
