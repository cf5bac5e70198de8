"""The order of the rows in an epoch: a function of (seed, epoch, n) and of nothing else.

Fisher-Yates over the words of Philox4x64-10 (Salmon et al., 2011), word for word those of ``numpy.random.Philox``
with key = seed and the epoch in the third of the four counter words. (In the first word, consecutive epochs would
read the same stream four words apart.) The fourth word tells the uses of the generator apart.
"""

from __future__ import annotations

import math

import numpy as np

ORDER, INIT, DROPOUT = 0, 1, 2  # the fourth counter word; src/order.cpp says the same


def philox(seed: int, epoch: int, use: int, step: int = 0) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=[0, step, epoch, use])


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1, int64. For i = n-1 down to 1: swap i with (word * (i + 1)) >> 64."""
    order = list(range(n))
    words = philox(seed, epoch, ORDER).random_raw(max(n - 1, 0)).tolist()
    for i, word in zip(range(n - 1, 0, -1), words):
        j = word * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


_DROP_BLOCK = 16  # words of 16 bits that a block of the generator holds


def dropout_scales(seed: int, step: int, layer: int, rows: int, cols: int, rate: float) -> np.ndarray:
    """What dropout multiplies a layer's inputs with in a step, float64 (rows, cols): 0, or 1 over the share kept.

    An input is dropped where its word of 16 bits is below ``rate * 2**16``, rounded. Each row begins with a new block
    of the generator, whose counter has the step in its second word and the layer in its third.
    """
    threshold = math.floor(rate * 65536 + 0.5)
    blocks = -(-cols // _DROP_BLOCK)
    words = philox(seed, layer, DROPOUT, step).random_raw(rows * blocks * 4).astype("<u8").view("<u2")
    kept = words.reshape(rows, blocks * _DROP_BLOCK)[:, :cols] >= threshold
    return kept / (1 - threshold / 65536)
