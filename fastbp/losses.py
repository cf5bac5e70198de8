"""The table of losses. A new one is one row here, then ``make rows``.

``value`` and ``grad`` are per output element; `Loss.outputs` says how one row reduces, and the batch is always
averaged (weighted: sum(w l) / sum(w)). Pinned values are those of PyTorch 2.13 in float64 for one sample.

- ``mse``: mean over batch and outputs of (a - t)^2, as TensorFlow and PyTorch.
- ``half_squared_error``: half the squared error, summed over outputs, mean over batch: the textbook's.
- ``softmax_cross_entropy``: from logits; integer labels or rows of probabilities; mean over batch.
- ``binary_cross_entropy``: from logits, targets in [0, 1]; mean over batch and outputs.
"""

from __future__ import annotations

from fastbp.rows import Loss

_Z = (1.0, -2.0, 0.5)

_ROWS = (
    Loss("mse", "(z - t) * (z - t)", "2 * (z - t)", outputs="mean", pinned=(
        (_Z, (0.0, 1.0, 0.25), 3.3541666666666665, (0.6666666666666666, -2.0, 0.16666666666666666)),)),
    Loss("half_squared_error", "0.5 * (z - t) * (z - t)", "z - t", outputs="sum", pinned=(
        (_Z, (0.0, 1.0, 0.25), 5.03125, (1.0, -3.0, 0.25)),)),
    Loss("softmax_cross_entropy", "t * (lse - z)", "EXP(z - lse) - t", outputs="sum", statistic="lse",
         from_logits=True, labels=True, domain=(0.0, 1.0), pinned=(
        (_Z, (0.0, 0.0, 1.0), 1.0045969023422834, (0.6037488961486258, 0.030058887569574023, -0.6338077837181998)),
        (_Z, (0.5, 0.25, 0.25), 1.3795969023422834, (0.10374889614862581, -0.21994111243042597, 0.11619221628180021)),
    )),
    # max(z, 0) - z t + log(1 + exp(-|z|)); the derivative is sigmoid(z) - t
    Loss("binary_cross_entropy", "MAX(z, 0) - z * t + LOG1P(EXP(-ABS(z)))",
         "WHERE(z < 0, EXP(-ABS(z)), 1) / (1 + EXP(-ABS(z))) - t", outputs="mean",
         from_logits=True, domain=(0.0, 1.0), pinned=(
        (_Z, (0.0, 1.0, 0.25), 1.4297555609137673, (0.2436861928766683, -0.2935990259926275, 0.1241531104006182)),)),
)

TABLE: dict[str, Loss] = {row.name: row for row in _ROWS}
ALIASES: dict[str, str] = {}
