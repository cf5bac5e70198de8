"""What is drawn at random: the order of the rows in an epoch, and what dropout drops.

The order is a function of (seed, epoch, n) and of nothing else: Fisher-Yates over the words of Philox4x32-10 (Salmon
et al., 2011) with key = seed. Its counters are those of `ORDER`, so that neither two epochs nor an epoch and dropout
share one. Initial weights and validation rows take ``numpy.random.Philox``, which is another generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

INIT, VALIDATION, BIAS_INIT = 1, 2, 3  # the fourth counter word of NumPy's Philox tells its uses apart


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


# The fourth counter word of the order of rows. Dropout's is ``layer << 16 ^ step >> 32``, and a step is below 2**48:
# its lower half may become this one's, but no network has the 65,536 layers whose last would have the upper half.
ORDER = 0xFFFFFFFF
ONE_WORD = 1 << 16  # up to so many rows a draw of 32 bits is biased by 2**-16 at most; above, it has 64


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1, int64. For i = n-1 down to 1: swap i with (word * (i + 1)) >> bits of the word.

    The counter is (block, lower half of the epoch, upper half, `ORDER`). A block gives its four words in turn; above
    65,536 rows two of them are the halves of a word, the lower one first.
    """
    draws, words_of_a_draw = max(n - 1, 0), 1 if n <= ONE_WORD else 2
    blocks = np.arange(-(-draws * words_of_a_draw // 4))
    words = np.stack(philox4x32(seed, (blocks, epoch & 0xFFFFFFFF, epoch >> 32, ORDER)), axis=-1)
    words = words.reshape(-1, words_of_a_draw)[:draws]
    at = np.zeros(draws, np.uint64)
    for halves in words.T:
        at = halves * np.arange(n, 1, -1, dtype=np.uint64) + at >> np.uint64(32)
    order = list(range(n))
    for i, j in zip(range(n - 1, 0, -1), at.tolist()):
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
