"""The order of the rows in an epoch: a function of (seed, epoch, n) and of nothing else.

Fisher-Yates over the words of Philox4x64-10 (Salmon et al., 2011), word for word those of ``numpy.random.Philox``
with key = seed and the epoch in the third of the four counter words. (In the first word, consecutive epochs would
read the same stream four words apart.) The fourth word tells the uses of the generator apart.
"""

from __future__ import annotations

import numpy as np

ORDER, INIT, VALIDATION = 0, 1, 3  # the fourth counter word


def philox(seed: int, epoch: int, use: int) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=[0, 0, epoch, use])


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1, int64. For i = n-1 down to 1: swap i with (word * (i + 1)) >> 64."""
    order = list(range(n))
    words = philox(seed, epoch, ORDER).random_raw(max(n - 1, 0)).tolist()
    for i, word in zip(range(n - 1, 0, -1), words):
        j = word * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)
