"""Targets for any loss of the table, drawn from its domain; what the test files share."""

import numpy as np

from fastbp import losses


def outputs_for(loss, n_targets):
    """Outputs of a network with so many targets."""
    return n_targets * (1 + (losses.TABLE[loss].grad_s is not None))


def targets(rng, loss, n, out_features):
    """(n, targets) for a network of so many outputs, exact in float32; rows of probabilities sum to 1 exactly."""
    row = losses.TABLE[loss]
    shape = n, row.targets(out_features)
    if row.labels:
        return rng.multinomial(64, np.ones(shape[1]) / shape[1], n) / 64
    low, high, ends = row.domain
    if ends == "{}":
        return rng.choice([low, high], shape)
    if np.isfinite(high):
        return low + rng.integers(0, 5, shape) / 4 * (high - low)
    if np.isfinite(low):
        return low + (rng.integers(0, 12, shape) + (ends[0] == "(")) / 4
    return rng.normal(size=shape).astype(np.float32).astype(float)
