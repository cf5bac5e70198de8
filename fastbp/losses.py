"""The table of losses. A new one is one row here, then ``make rows``.

A row is called to choose its settings: ``fastbp.losses.huber(delta=2.0)``; its name alone stands for the defaults.
Every loss also takes ``outputs="mean"`` or ``"sum"`` and, but for those of one distribution over all outputs,
``output_weights``.

``value`` and ``grad`` are per output element; `Loss.outputs` says how one row reduces, and the batch is always
averaged (weighted: sum(w l) / sum(w)). Pinned values are those of PyTorch 2.13 in float64 for one sample, unless the
row's note says otherwise.

- ``mse``: mean over batch and outputs of (a - t)^2, as TensorFlow and PyTorch.
- ``half_squared_error``: half the squared error, summed over outputs, mean over batch: the textbook's.
- ``softmax_cross_entropy``: from logits; integer labels or rows of probabilities; mean over batch. Label smoothing.
- ``binary_cross_entropy``: from logits, targets in [0, 1]; mean over batch and outputs.
- ``mae``, ``huber``, ``log_cosh``, ``quantile``: of a - t; mean over batch and outputs.
- ``poisson``, ``poisson_deviance``, ``gamma``, ``tweedie``: from the logarithm of the mean; mean over batch and
  outputs.
- ``gaussian_nll``: from K means and K log-variances for K targets; mean over batch and targets.
- ``hinge``, ``squared_hinge``: targets -1 or 1; mean over batch and outputs.
- ``focal``: from logits, targets in [0, 1]; mean over batch and outputs.
- ``kl_divergence``: from logits; rows of probabilities or integer labels; mean over batch.
- ``softmax_log_loss``, ``binary_log_loss``: the gradients of the cross-entropies; values of clipped probabilities, as
  scikit-learn reports them.

docs/losses.md shows each row and its picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.rows import Domain, Loss, Setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROBABILITY = Domain(0.0, 1.0)
_NOT_NEGATIVE = Domain(0.0)
_POSITIVE = Domain(0.0, math.inf, "(]")
_INSIDE_0_1 = Domain(0.0, 1.0, "()")
_SIGNS = Domain(-1.0, 1.0, "{}")

_E = "EXP(-ABS(z))"  # never overflows
_SIGMOID = f"WHERE(z < 0, {_E}, 1) / (1 + {_E})"
_BINARY_CROSS_ENTROPY = f"MAX(z, 0) - z * t + LOG1P({_E})"  # -t log(p) - (1 - t) log(1 - p)

# log(cosh(d)). Near 0 log(1 + sinh^2), since |d| + ... - log(2) would lose all digits; no branch overflows.
_FALL = "EXPM1(-ABS(z - t))"
_LOG_COSH = (f"WHERE(ABS(z - t) < 1, LOG1P({_FALL} * {_FALL} / (2 * (1 + {_FALL}))),"
             " ABS(z - t) + (LOG1P(EXP(-2 * ABS(z - t))) - 0.6931471805599453))")  # fmt: skip

# What scikit-learn reports: the values of probabilities which are rounded and clipped to [eps, 1 - eps].
_EPS = Setting("eps", 1e-7, Domain(0.0, 0.5, "()"))
_REPORTED = "The value is that of probabilities which are clipped at eps, as scikit-learn reports it; the derivative is"
_CLIPPED = "MIN(MAX(1 / (1 + EXP(-z)), eps), most)"

# Smoothed targets; with label_smoothing 0 these are t to the last bit.
_SMOOTHED = "(t * kept + spread)"

# The residual in units of the standard deviation. exp(-s / 2) and not exp(-s), whose product with an overflown square
# would be inf * 0.
_S = "MAX(s, log_eps)"
_PRECISION = f"EXP(-0.5 * {_S})"
_RESIDUAL = f"(z - t) * {_PRECISION}"

# focal: p = sigmoid(z); 1 - p_t = (1 - t) p + t (1 - p) = _MISS / (1 + e). Where _MISS underflows to 0 so does the
# cross-entropy: any number but 0 will do for its logarithm.
_MISS = f"WHERE(z < 0, (1 - t) * {_E} + t, (1 - t) + t * {_E})"
_SAFE_MISS = f"WHERE({_MISS} > 0, {_MISS}, 1)"
_FOCUS = f"EXP(gamma * (LOG({_SAFE_MISS}) - LOG1P({_E})))"
_BALANCE = "(positive * t + negative * (1 - t))"

_Z, _Z2 = (1.0, -2.0, 0.5), (0.25, 1.5, -3.0)
_T = (0.0, 1.0, 0.25)

_ROWS = (
    Loss("mse", "(z - t) * (z - t)", "2 * (z - t)", outputs="mean", pinned=(
        (_Z, _T, 3.3541666666666665, (0.6666666666666666, -2.0, 0.16666666666666666)),)),
    Loss("half_squared_error", "0.5 * (z - t) * (z - t)", "z - t", outputs="sum", pinned=(
        (_Z, _T, 5.03125, (1.0, -3.0, 0.25)),)),
    Loss("softmax_cross_entropy", f"{_SMOOTHED} * (lse - z)", f"EXP(z - lse) - {_SMOOTHED}", outputs="sum",
         statistic="lse", from_logits=True, link="softmax", labels=True, domain=_PROBABILITY,
         settings=(Setting("label_smoothing", 0.0, Domain(0.0, 1.0, "[)")),),
         constants=(("kept", "1 - label_smoothing"), ("spread", "label_smoothing / k")),
         note="`lse` is log(sum(exp(z))) over a row. Smoothing mixes the targets with 1 / k for each of k classes.",
         pinned=(
        (_Z, (0.0, 0.0, 1.0), 1.0045969023422834, (0.6037488961486258, 0.030058887569574023, -0.6338077837181998)),
        (_Z, (0.5, 0.25, 0.25), 1.3795969023422834, (0.10374889614862581, -0.21994111243042597, 0.11619221628180021)),
    )),
    Loss("binary_cross_entropy", _BINARY_CROSS_ENTROPY, f"{_SIGMOID} - t", outputs="mean",
         from_logits=True, link="sigmoid", domain=_PROBABILITY, pinned=(
        (_Z, _T, 1.4297555609137673, (0.2436861928766683, -0.2935990259926275, 0.1241531104006182)),)),
    Loss("mae", "ABS(z - t)", "WHERE(z > t, 1, WHERE(z < t, -1, z - t))", outputs="mean",
         note="The derivative at z = t is 0.", pinned=(
        (_Z, _T, 1.4166666666666667, (0.3333333333333333, -0.3333333333333333, 0.3333333333333333)),
        (_Z2, (0.5, 1.0, 2.0), 1.9166666666666667, (-0.3333333333333333, 0.3333333333333333, -0.3333333333333333)),
    )),
    # c (|d| - c / 2) with c = min(|d|, delta)
    Loss("huber", "MIN(ABS(z - t), delta) * (ABS(z - t) - 0.5 * MIN(ABS(z - t), delta))",
         "MIN(MAX(z - t, -delta), delta)", outputs="mean", settings=(Setting("delta", 1.0, _POSITIVE),), pinned=(
        (_Z, _T, 1.0104166666666667, (0.3333333333333333, -0.3333333333333333, 0.08333333333333333)),
        (_Z2, (0.5, 1.0, 2.0), 1.5520833333333333, (-0.08333333333333333, 0.16666666666666666, -0.3333333333333333)),
    )),
    Loss("log_cosh", _LOG_COSH, "TANH(z - t)", outputs="mean",
         note="log(cosh(z - t)). Pinned: PyTorch's log(cosh()).", pinned=(
        (_Z, _T, 0.924679712893658, (0.2538647186519216, -0.33168491789557686, 0.0816395541345697)),
        (_Z2, (0.5, 1.0, 2.0), 1.4859808429725703, (-0.0816395541345697, 0.15403905242000326, -0.3333030680875317)),
    )),
    Loss("quantile", "MAX(quantile * (t - z), (quantile - 1) * (t - z))",
         "WHERE(z < t, -quantile, WHERE(z > t, 1 - quantile, z - t))", outputs="mean",
         settings=(Setting("quantile", 0.5, _INSIDE_0_1),),
         note="The pinball loss. The derivative at z = t is 0. Pinned: the value is scikit-learn 1.9's"
              " mean_pinball_loss, the derivative that of PyTorch's max().", pinned=(
        (_Z, _T, 0.7083333333333334, (0.16666666666666666, -0.16666666666666666, 0.16666666666666666)),
        (_Z2, (0.5, 1.0, 2.0), 0.9583333333333334, (-0.16666666666666666, 0.16666666666666666, -0.16666666666666666)),
    )),
    Loss("poisson", "EXP(z) - t * z", "EXP(z) - t", outputs="mean", from_logits=True, domain=_NOT_NEGATIVE,
         note="z is the logarithm of the mean. As PyTorch's PoissonNLLLoss(log_input=True, full=False).", pinned=(
        (_Z, (0.0, 1.0, 2.5), 1.7507794607985954, (0.9060939428196817, -0.28822157225446243, -0.28375957643329053)),
        (_Z2, (3.0, 0.5, 0.0), 1.4385005184645563, (-0.5719915277707529, 1.327229690112688, 0.016595689455954646)),
    )),
    Loss("poisson_deviance", "EXP(z) - t * z + (t * LOG(WHERE(t > 0, t, 1)) - t)", "EXP(z) - t", outputs="mean",
         from_logits=True, domain=_NOT_NEGATIVE,
         note="z is the logarithm of the mean. Half the deviance: `poisson` and what depends on t alone, so that a"
              " perfect forecast has a loss of 0. Pinned: the value is half of scikit-learn 1.9's"
              " mean_poisson_deviance, the derivative that of PyTorch's PoissonNLLLoss.", pinned=(
        (_Z, (0.0, 1.0, 2.5), 1.3476884040270578, (0.9060939428196817, -0.28822157225446243, -0.28375957643329053)),
        (_Z2, (3.0, 0.5, 0.0), 1.2549216103726757, (-0.5719915277707529, 1.327229690112688, 0.016595689455954646)),
    )),
    Loss("gamma", "z + t * EXP(-z)", "1 - t * EXP(-z)", outputs="mean", from_logits=True, domain=_POSITIVE,
         note="z is the logarithm of the mean. Half the deviance but for what depends on t alone. Pinned:"
              " scikit-learn 1.9's HalfGammaLoss, which leaves out the same.", pinned=(
        (_Z, (0.5, 1.0, 2.5), 2.8631074895993187, (0.27202009313809294, -2.1296853663102167, -0.17210888309386116)),
        (_Z2, (3.0, 0.25, 0.125), 1.2176256682165933, (-0.4454674497380715, 0.3147391533209642, -0.5035640384661528)),
    )),
    Loss("tweedie", "EXP(up * z) / up - WHERE(t > 0, t * EXP(down * z), 0) / down",
         "EXP(up * z) - WHERE(t > 0, t * EXP(down * z), 0)", outputs="mean",
         settings=(Setting("power", 1.5, Domain(1.0, 2.0, "()")),),
         constants=(("up", "2 - power"), ("down", "1 - power")),
         from_logits=True, domain=_NOT_NEGATIVE,
         note="z is the logarithm of the mean. Half the deviance but for what depends on t alone. Pinned:"
              " scikit-learn 1.9's HalfTweedieLoss(power=1.5), which leaves out the same.", pinned=(
        (_Z, (0.0, 1.0, 2.5), 5.3106066097979125, (0.5495737569000427, -0.783467462429201, -0.22099218033025694)),
        (_Z2, (3.0, 0.5, 0.0), 4.237968409301483, (-0.50478075156232, 0.6269389134140558, 0.07437672004947661)),
    )),
    Loss("gaussian_nll", f"0.5 * ({_S} + {_RESIDUAL} * ({_RESIDUAL}))", f"{_RESIDUAL} * {_PRECISION}", outputs="mean",
         grad_s=f"0.5 * (1 - {_RESIDUAL} * ({_RESIDUAL})) * EXP(s - {_S})",
         settings=(Setting("eps", 1e-6, _POSITIVE),), constants=(("log_eps", "LOG(eps)"),), from_logits=True,
         note="z is the mean and s the logarithm of the variance: for K targets the network has 2 K outputs, K means"
              " and then K log-variances. Variances below eps count as eps in all but exp(s), the derivative of the"
              " variance by s: so it can come back. As PyTorch's GaussianNLLLoss(full=False).", pinned=(
        ((1.0, -2.0, 0.5, -1.0), (0.0, 1.0), 6.142766778961009,
         (0.3032653298563167, -4.077422742688568, 0.09836733507184164, -5.8661341140328505)),
        ((0.25, 3.0, -20.0, 2.0), (0.0, 1.0), 15622.181457643746,
         (125000.0, 0.1353352832366127, -32.205010062196855, 0.11466471676338731)),
    )),
    Loss("hinge", "MAX(1 - z * t, 0)", "WHERE(z * t < 1, -t, WHERE(z * t >= 1, 0, z))", outputs="mean",
         domain=_SIGNS, note="The derivative at z t = 1 is 0. Pinned: PyTorch's relu(1 - z * t).", pinned=(
        (_Z, (-1.0, 1.0, 1.0), 1.8333333333333333, (0.3333333333333333, -0.3333333333333333, -0.3333333333333333)),
        (_Z2, (1.0, 1.0, -1.0), 0.25, (-0.3333333333333333, 0.0, 0.0)),
    )),
    Loss("squared_hinge", "MAX(1 - z * t, 0) * MAX(1 - z * t, 0)", "-2 * t * MAX(1 - z * t, 0)", outputs="mean",
         domain=_SIGNS, note="Pinned: PyTorch's relu(1 - z * t)**2.", pinned=(
        (_Z, (-1.0, 1.0, 1.0), 4.416666666666667, (1.3333333333333333, -2.0, -0.3333333333333333)),
        (_Z2, (1.0, 1.0, -1.0), 0.1875, (-0.5, 0.0, 0.0)),
    )),
    Loss("focal", f"{_BALANCE} * {_FOCUS} * ({_BINARY_CROSS_ENTROPY})",
         f"{_BALANCE} * {_FOCUS} * ({_SIGMOID} - t + gamma * ({_BINARY_CROSS_ENTROPY})"
         f" * (1 - 2 * t) * ({_E} / ((1 + {_E}) * {_SAFE_MISS})))",
         outputs="mean", settings=(Setting("gamma", 2.0, _NOT_NEGATIVE), Setting("alpha", None, _PROBABILITY)),
         constants=(("positive", "WHERE(alpha < 0, 1, alpha)"), ("negative", "WHERE(alpha < 0, 1, 1 - alpha)")),
         from_logits=True, link="sigmoid", domain=_PROBABILITY,
         note="(1 - p_t)^gamma times the binary cross-entropy, 1 - p_t = (1 - t) p + t (1 - p), p = sigmoid(z), of Lin"
              " et al. (2017); alpha weighs targets of 1, 1 - alpha those of 0. Pinned: optax 0.2.8's"
              " sigmoid_focal_loss.", pinned=(
        (_Z, (0.0, 1.0, 1.0), 0.8065066577834326, (0.2560782410664392, -0.35890457681616056, -0.04597899911697147)),
        (_Z2, (1.0, 0.25, 0.0), 0.22872498878242287,
         (-0.06935212637495475, 0.1255518158860245, 0.00010495728216276042)),
    )),
    Loss("kl_divergence", "t * (LOG(WHERE(t > 0, t, 1)) + (lse - z))", "EXP(z - lse) - t", outputs="sum",
         statistic="lse", from_logits=True, link="softmax", labels=True, domain=_PROBABILITY,
         note="sum(t log(t / softmax(z))), as PyTorch's kl_div(reduction=\"batchmean\") of log_softmax(z).", pinned=(
        (_Z, (0.5, 0.25, 0.25), 0.33987613150236556, (0.10374889614862581, -0.21994111243042597, 0.11619221628180021)),
        (_Z2, (0.0, 0.0, 1.0), 4.760527034253489, (0.22079358150920853, 0.7706453222734431, -0.9914389037826516)),
    )),
    Loss("softmax_log_loss", "t * MIN(lse - z, most)", "EXP(z - lse) - t", outputs="sum", statistic="lse",
         settings=(_EPS,), constants=(("most", "-LOG(eps)"),), from_logits=True, link="softmax", labels=True,
         domain=_PROBABILITY,
         note=f"{_REPORTED} that of `softmax_cross_entropy`, which is the loss to take. Pinned: NumPy's formula.",
         pinned=(
        (_Z, (0.0, 0.0, 1.0), 1.0045969023422834, (0.6037488961486258, 0.030058887569574023, -0.6338077837181998)),
        ((20.0, -1.5, 0.25), (0.0, 1.0, 0.0), 16.11809565095832,
         (0.9999999968935214, -0.9999999995400944, 2.6465736306875924e-09)),
    )),
    Loss("binary_log_loss", f"-(t * LOG({_CLIPPED}) + (1 - t) * LOG(1 - {_CLIPPED}))", f"{_SIGMOID} - t",
         outputs="mean", settings=(_EPS,), constants=(("most", "1 - eps"),),
         from_logits=True, link="sigmoid", domain=_PROBABILITY,
         note=f"{_REPORTED} that of `binary_cross_entropy`, which is the loss to take. Pinned: scikit-learn 1.9's"
              " binary_log_loss.", pinned=(
        (_Z, (0.0, 1.0, 1.0), 1.3047555609137673, (0.2436861928766683, -0.2935990259926275, -0.1258468895993818)),
        ((2.0, -1.5, 0.25), (0.0, 0.0, 1.0), 0.9680935696348558,
         (0.29359902599262744, 0.060808507935452116, -0.14594116637140064)),
    )),
)

TABLE: dict[str, Loss] = {row.name: row for row in _ROWS}
ALIASES: dict[str, str] = {}
OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    "mse": ("mse_loss", "mean_squared_error", "squared_error", "squared_loss", "l2", "l2_loss", "least_squares"),
    "half_squared_error": ("half_mse", "half_mean_squared_error"),
    "softmax_cross_entropy": (
        "cross_entropy", "cross_entropy_loss", "crossentropy", "categorical_crossentropy",
        "sparse_categorical_crossentropy", "softmax_crossentropy", "softmax_cross_entropy_with_logits",
        "softmax_cross_entropy_with_integer_labels", "sparse_softmax_cross_entropy_with_logits",
    ),
    "binary_cross_entropy": (
        "bce", "bce_loss", "bce_with_logits", "bce_with_logits_loss", "binary_crossentropy", "logistic",
        "logistic_loss", "binary_cross_entropy_with_logits", "sigmoid_cross_entropy", "sigmoid_binary_cross_entropy",
        "sigmoid_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss",
    ),
    "mae": ("l1", "l1_loss", "mae_loss", "mean_absolute_error", "absolute_error", "absolute_loss"),
    "huber": ("huber_loss", "smooth_l1", "smooth_l1_loss"),
    "quantile": ("pinball", "pinball_loss", "quantile_loss"),
    "poisson": ("poisson_nll", "poisson_nll_loss"),
    "poisson_deviance": ("half_poisson_deviance", "mean_poisson_deviance", "half_poisson_loss"),
    "gaussian_nll": ("gaussian_nll_loss",),
    "focal": ("focal_loss", "sigmoid_focal_loss", "binary_focal_crossentropy"),
    "kl_divergence": ("kl", "kld", "kl_div", "kl_div_loss", "kullback_leibler_divergence"),
    "'softmax_cross_entropy' takes logits and integer labels of classes, 'binary_cross_entropy' one output for two":
        ("log_loss", "logloss", "nll", "nll_loss", "neg_log_likelihood", "negative_log_likelihood", "multinomial"),
    "loss='softmax_cross_entropy' takes logits, and predict_proba gives probabilities": ("softmax", "log_softmax"),
    "'mse' has the same minimum, and metrics=('rmse',) shows its root": ("rmse", "root_mean_squared_error"),
}  # fmt: skip


def _softmax(z: NDArray[Any]) -> NDArray[Any]:
    shares: NDArray[Any] = z - z.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(-np.abs(z))
    shares: NDArray[Any] = np.where(z < 0, e, np.ones_like(e)) / (1 + e)
    return shares


# From logits, (n, out_features), to probabilities, in their dtype; `Loss.link` names them.
LINKS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {"softmax": _softmax, "sigmoid": _sigmoid}


if TYPE_CHECKING:  # a test compares these with the table
    mse: Loss
    half_squared_error: Loss
    softmax_cross_entropy: Loss
    binary_cross_entropy: Loss
    mae: Loss
    huber: Loss
    log_cosh: Loss
    quantile: Loss
    poisson: Loss
    poisson_deviance: Loss
    gamma: Loss
    tweedie: Loss
    gaussian_nll: Loss
    hinge: Loss
    squared_hinge: Loss
    focal: Loss
    kl_divergence: Loss
    softmax_log_loss: Loss
    binary_log_loss: Loss
else:

    def __getattr__(name: str) -> Loss:
        """``fastbp.losses.huber`` is ``TABLE["huber"]``."""
        if name not in TABLE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return TABLE[name]


def __dir__() -> list[str]:
    return [*globals(), *TABLE]
