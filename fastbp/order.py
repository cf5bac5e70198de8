"""What is drawn at random: the order of the rows in an epoch, and what dropout drops.

The order is a function of (seed, epoch, n) and of nothing else: Fisher-Yates over the words of Philox4x64-10 (Salmon
et al., 2011), word for word those of ``numpy.random.Philox`` with key = seed and the epoch in the third of the four
counter words. (In the first word, consecutive epochs would read the same stream four words apart.) The fourth word
tells the uses of the generator apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

ORDER, INIT, VALIDATION, BIAS_INIT = range(4)  # the fourth counter word; 0 stands in src/order.cpp


def philox(seed: int, epoch: int, use: int) -> np.random.Philox:
    return np.random.Philox(_keys()(seed), counter=[0, 0, epoch, use])


@cache  # NumPy loads np.random on first use
def _keys() -> Callable[[int], np.random.bit_generator.ISeedSequence]:
    """What gives a generator its key. (Where a key comes as ``key=``, NumPy asks the system for a seed too: 6 us.)"""

    class Key(np.random.bit_generator.ISeedSequence):
        def __init__(self, key: int) -> None:
            self.key = key

        def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
            return np.array([self.key, 0], np.uint64)  # the two words that Philox asks for

    return Key


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1, int64. For i = n-1 down to 1: swap i with (word * (i + 1)) >> 64."""
    order = list(range(n))
    words = philox(seed, epoch, ORDER).random_raw(max(n - 1, 0)).tolist()
    for i, word in zip(range(n - 1, 0, -1), words):
        j = word * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


_DROP_BLOCK = 64  # words of 16 bits that eight counters give


def philox4x32(key: int, counters: Sequence[Any]) -> list[np.ndarray]:
    """The four words of Philox4x32-10 for four words of counters, which broadcast; uint64 arrays below 2**32.

    NumPy has the 64-bit generator alone; this one is made of products that vectors of every CPU have.
    """
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    k = [key & 0xFFFFFFFF, key >> 32]
    x0, x1, x2, x3 = (np.asarray(word, np.uint64) for word in counters)
    for _ in range(10):
        p0, p1 = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = p1 >> high ^ x1 ^ np.uint64(k[0]), p1 & low, p0 >> high ^ x3 ^ np.uint64(k[1]), p0 & low
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [x0, x1, x2, x3]


def dropout_scales(seed: int, step: int, layer: int, rows: int, cols: int, rate: float) -> np.ndarray:
    """What dropout multiplies a layer's inputs with in a step, float64 (rows, cols): 0, or 1 over the share kept.

    An input is dropped where its word of 16 bits is below ``rate * 2**16``, rounded. The words are those of
    `philox4x32`, its counter made of a number in the row, the row, and the step (below 2**48) with the layer. Eight
    counters fill a block: the first two words of each, then the last two of each.
    """
    threshold = math.floor(rate * 65536 + 0.5)
    n_blocks = -(-cols // _DROP_BLOCK)
    numbers, row = np.arange(8 * n_blocks), np.arange(rows)[:, None]
    words = philox4x32(seed, (numbers, row, step & 0xFFFFFFFF, (layer << 16 ^ step >> 32) & 0xFFFFFFFF))
    blocks = np.stack(words, axis=-1).astype("<u4").reshape(rows, n_blocks, 8, 2, 2).swapaxes(2, 3)
    kept = np.ascontiguousarray(blocks).view("<u2").reshape(rows, -1)[:, :cols] >= threshold
    return kept / (1 - threshold / 65536)
