"""Pictures of training and of networks, with matplotlib, which is imported on first use.

Each function draws into `ax`, or into a new figure of pyplot without one, and returns the Axes: to add a title to, or
for ``ax.figure.savefig(path)``. None shows a window, and none changes a setting of matplotlib.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import checks
from fastbp.arrays import real_array
from fastbp.bench import figures
from fastbp.data import arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastbp.history import History, ManyHistory
    from fastbp.mlp import MLP
    from fastbp.search.found import Sweep
    from fastbp.typing import Array, LossLike, Rows

# Those of Okabe and Ito, told apart by all.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP"  # with the colours: 42 classes before a pair comes again
GRID, FRAME, NOTE = "#e8e8e8", "#888888", "#666666"
_FEW = 20  # entries that are marked on their line
_LOG_SPAN = 10  # positive values that span more than this are shown on a logarithmic scale, unless told


# ------------------------------------------------------------------ training


def history(history: History, ax: Axes | None = None, *, log: bool | None = None) -> Axes:
    """Draw what a run recorded over its steps, one panel below the other: the loss, each metric, the learning rate.

    A column ``val_x`` stands in the panel of ``x``, as a dashed line. A learning rate that never changes gets no panel.

    Parameters
    ----------
    history : History
        What `MLP.fit` returned.
    ax : Axes, optional
        The panels share its place.
    log : bool, optional
        Whether the loss has a logarithmic scale; unless told, where its values are positive and far apart.

    Returns
    -------
    Axes
        Of the loss, the first panel; ``ax.figure.axes`` has the others.

    Raises
    ------
    ValueError
        The history has no entry.
    """
    _check("history", history, "what MLP.fit returned", "step", "loss", "columns")
    if not len(history.step):
        raise ValueError("this history has no entry: there is nothing to draw")
    log = None if log is None else checks.boolean("log", log)
    panels: dict[str, list[str]] = {"loss": ["loss"]}
    for name in history.columns:
        panels.setdefault(name.removeprefix("val_"), []).append(name)
    rate = panels.pop("lr", [])
    if any(np.ptp(history.columns[name]) for name in rate):
        panels["lr"] = rate

    columns = {"loss": history.loss, **history.columns}
    heights = [2.0, *[1.0] * (len(panels) - 1)]
    axes = _stack(_axes(ax, 6.4, 1.4 + 1.3 * sum(heights)), heights)
    roles: dict[str, Any] = {}  # for the legend: one line of each
    for panel, (title, names) in zip(axes, panels.items()):
        for name in names:
            line = _curve(panel, history.step, columns[name], validation=name.startswith("val_"))
            roles.setdefault(line.get_label(), line)
        panel.set_title("learning rate" if title == "lr" else title.replace("_", " "), loc="left", size="medium")
        panel.grid(color=GRID)
        panel.tick_params(labelbottom=panel is axes[-1])
        if title in ("loss", "lr"):
            wanted = log if title == "loss" else None
            _log_scale(panel, np.concatenate([columns[name] for name in names]), wanted)
    if "validation" in roles:
        axes[0].legend(handles=roles.values(), frameon=False)
    _steps(axes[-1])
    return axes[0]


_MOST_CURVES = 500  # of more networks every so many is drawn


def many_history(history: ManyHistory, ax: Axes | None = None, *, k: int = 5, log: bool | None = None) -> Axes:
    """Draw what each of many networks recorded over its steps: all in grey, the best `k` on top, in colours.

    The curves are those of `val_loss` where there were validation rows, else of `loss`. Of more than 500 networks some
    are drawn, at even distances in the order of their last value, and the best.

    Parameters
    ----------
    history : ManyHistory
        What `fit_many` returned.
    ax : Axes, optional
    k : int, default 5
        Best networks, named in the legend by their key or number.
    log : bool, optional
        Whether the loss has a logarithmic scale; unless told, where its values are positive and far apart.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        The history has no entry.
    """
    _check("history", history, "what fit_many returned", "best", "n_entries", "keys")
    log = None if log is None else checks.boolean("log", log)
    best = history.best(checks.integer("k", k, 1))
    validation = "val_loss" in history.columns
    values = history.val_loss if validation else history.loss
    shown = np.flatnonzero((np.isfinite(values) & (history.step >= 0)).any(axis=1))
    if not len(shown):
        raise ValueError("this history has no entry: there is nothing to draw")
    last = history._last(values)[shown]
    shown = shown[np.argsort(last, kind="stable")]
    shown = shown[np.linspace(0, len(shown) - 1, min(len(shown), _MOST_CURVES)).astype(int)]
    ax = _axes(ax, 6.4, 4)

    def curve(number: int, **more: Any) -> None:
        known = np.isfinite(values[number]) & (history.step[number] >= 0)
        few = "o" if known.sum() <= 1 else ""
        ax.plot(history.step[number][known], values[number][known], marker=few, ms=3.5, **more)

    for number in shown:
        curve(number, color=FRAME, alpha=0.35, lw=0.8, zorder=1)
    for rank, number in enumerate(best):
        name = number if history.keys is None else history.keys[number]
        curve(number, color=COLOURS[rank % len(COLOURS)], lw=1.6, zorder=3, label=str(name))
    ax.set_ylabel("validation loss" if validation else "training loss")
    ax.grid(color=GRID)
    _log_scale(ax, values[shown], log)
    _steps(ax)
    if len(best):
        title = f"best of {len(history):,}"
        ax.legend(title=title, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def sweep(sweep: Sweep, ax: Axes | None = None, *, log: bool | None = None) -> Axes:
    """Draw what decided between candidates against each key of the space, in panels side by side; the best in colour.

    Candidates that halving has left behind are grey and small. A key whose values are numbers has an axis of numbers,
    a logarithmic one where they are positive and far apart; any other has a place for each value.

    Parameters
    ----------
    sweep : Sweep
        What `fastbp.sweep` returned.
    ax : Axes, optional
        The panels share its place.
    log : bool, optional
        Whether the metric has a logarithmic scale; unless told, where its values are positive and far apart.

    Returns
    -------
    Axes
        Of the first key; ``ax.figure.axes`` has the others.

    Raises
    ------
    ValueError
        The space has no key, or no candidate has a value.
    """
    _check("sweep", sweep, "what fastbp.sweep returned", "columns", "best_index", "fold_values")
    log = None if log is None else checks.boolean("log", log)
    names, values = list(sweep.params[0]), sweep.values
    known = np.isfinite(values)
    if not names or not known.any():
        raise ValueError("this sweep has no key, or no candidate with a value: there is nothing to draw")
    panels = _beside(_axes(ax, 1.2 + 2.6 * len(names), 3.4), len(names))
    best, late = sweep.best_index, sweep.rung == sweep.rung.max()
    for panel, name in zip(panels, names):
        at = _places(panel, sweep.columns[name])
        for which, size, alpha in ((known & ~late, 12, 0.35), (known & late, 26, 0.8)):
            panel.scatter(at[which], values[which], s=size, color=FRAME, alpha=alpha, lw=0, zorder=2)
        panel.scatter(at[best], values[best], s=60, color=COLOURS[1], lw=0, zorder=3)
        panel.set_xlabel(name)
        panel.grid(color=GRID)
        panel.tick_params(labelleft=panel is panels[0])
    panels[0].set_ylabel(sweep.metric.replace("_", " "))
    _log_scale(panels[0], values[known], log)
    return panels[0]


def _places(ax: Axes, column: np.ndarray) -> np.ndarray:
    """Where the values of a key stand on the x axis, which is made for them."""
    if column.dtype.kind in "if":
        _log_scale(ax, column, None, axis="x")
        return column
    values = column.tolist()
    names = list(map(str, values))
    try:
        values.sort()
    except TypeError:  # of several kinds: as they come
        pass
    kinds = list(dict.fromkeys(map(str, values)))
    ax.set_xticks(range(len(kinds)), kinds, rotation=30 if max(map(len, kinds)) * len(kinds) > 24 else 0)
    ax.set_xlim(-0.5, len(kinds) - 0.5)
    return np.array([kinds.index(name) for name in names])


def _curve(ax: Axes, step: np.ndarray, values: np.ndarray, *, validation: bool) -> Any:
    """The line of a column; entries without a value, where nothing was measured, do not break it."""
    known = np.isfinite(values)
    (line,) = ax.plot(
        step[known], values[known], lw=1.6, color=COLOURS[validation], ls="--" if validation else "-",
        marker="o" if known.sum() <= _FEW else "", ms=3.5, label="validation" if validation else "training",
    )  # fmt: skip
    return line


class GradientRecorder:
    """Measures the gradient of each layer while a network trains, for `gradients`.

    Give it to `MLP.fit` as a callback: it records before the first step and after each epoch. Or call `record` between
    two calls that train.

    Parameters
    ----------
    X, y, loss, sample_weight
        As for `MLP.loss_and_grad`. The same rows each time, so that two entries differ by the network alone; some
        hundred are enough.

    Attributes
    ----------
    step : list of int, (n_entries,)
        ``net.step`` at each entry.
    rms : list of ndarray of float64, (n_entries, n_layers)
        Root mean square of the gradient over the parameters, weights and biases, of each layer.
    layers : list of str, (n_layers,)
        Shapes, as ``"64 -> 128"``.
    """

    def __init__(self, X: Rows, y: Array, *, loss: LossLike, sample_weight: Array | None = None) -> None:
        self._rows: dict[str, Any] = dict(X=X, y=y, loss=loss, sample_weight=sample_weight)
        self.step: list[int] = []
        self.rms: list[np.ndarray] = []
        self.layers: list[str] = []

    def record(self, net: MLP) -> None:
        """Measure the gradient of a network; a step that was the last recorded is not recorded again.

        Parameters
        ----------
        net : MLP
            The same at each call, or one of the same sizes.
        """
        _check_net(net)
        layers = _shapes(net)
        if self.step and layers != self.layers:
            raise ValueError(f"net has the layers {layers}, and this recorder has gradients of {self.layers}")
        if self.step[-1:] == [net.step]:
            return
        _, gradient = net.loss_and_grad(**self._rows)
        sizes = [(layer.in_features + net._spec.bias) * layer.out_features for layer in net._spec.layers]
        parts = np.split(gradient.astype(np.float64), np.cumsum(sizes)[:-1])
        self.layers = layers
        self.rms.append(np.array([np.sqrt(np.mean(np.square(part))) for part in parts]))
        self.step.append(net.step)

    def on_train_begin(self, net: MLP) -> None:
        """`record`, as a callback."""
        self.record(net)

    def on_epoch_end(self, net: MLP, logs: dict[str, float]) -> None:
        """`record`, as a callback."""
        self.record(net)


def gradients(recorder: GradientRecorder, ax: Axes | None = None) -> Axes:
    """Draw the size of each layer's gradient over the steps, on a logarithmic scale.

    Lines that lie orders of magnitude below those of later layers are gradients that vanish on the way back; lines that
    rise and rise, gradients that explode. Where a gradient is zero or not finite its line has a gap.

    Parameters
    ----------
    recorder : GradientRecorder
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Nothing was recorded.
    """
    _check("recorder", recorder, "a GradientRecorder", "step", "rms", "layers")
    if not recorder.step:
        raise ValueError("this recorder has no entry: give it to fit as a callback, or call record(net)")
    ax = _axes(ax, 6.4, 4)
    from matplotlib import colormaps

    rms = np.array(recorder.rms)
    shown = np.isfinite(rms) & (rms > 0)
    # The order of layers is one of colours: dark below, bright above. The end of the map is too bright on white.
    colours = colormaps["viridis"](np.linspace(0, 0.88, len(recorder.layers)))
    every = -(-len(recorder.layers) // 12)  # of many layers some are named
    for k, layer in enumerate(recorder.layers):
        label = f"{k}: {layer}" + ("" if shown[:, k].any() else " (no gradient)")
        values = np.where(shown[:, k], rms[:, k], np.nan)
        ax.plot(recorder.step, values, color=colours[k], lw=1.6, marker="o" if len(rms) <= _FEW else "", ms=3.5,
                label="_" * (k % every > 0) + label)  # fmt: skip
    ax.set_ylabel("RMS of the layer's gradient")
    ax.grid(color=GRID)
    _log_scale(ax, rms)
    _steps(ax)
    ax.legend(title="layer", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return ax


# ------------------------------------------------------------------ networks


def weights(net: MLP, layer: int | None = None, ax: Axes | None = None, *, image: Sequence[int] | None = None) -> Axes:
    """Draw the weights of a network.

    Parameters
    ----------
    net : MLP
    layer : int, optional
        None: how the weights of each layer are distributed. A number: the weights of that layer as colours, counted
        from 0 as in ``net.weights``, from -1 backward; a row for each input, a column for each unit.
    ax : Axes, optional
    image : (height, width), optional
        With a layer whose inputs are pixels: the weights of each unit as a picture of its own, unit by unit.

    Returns
    -------
    Axes
    """
    _check_net(net)
    if layer is None:
        if image is not None:
            raise ValueError("image needs a layer: which one's inputs are pixels?")
        return _distributions(net, ax)
    n_layers = len(net.weights)
    layer = checks.integer("layer", layer, -n_layers, n_layers - 1) % n_layers
    weight = np.asarray(net.weights[layer], np.float64)
    shown = weight if image is None else _tiled(weight, image)
    height, width = shown.shape
    scale = 5.5 / max(height, width)
    ax = _axes(ax, max(width * scale, 2) + 1.2, max(height * scale, 2) + 0.8)
    largest = np.abs(weight).max(initial=0, where=np.isfinite(weight)) or 1.0  # on both sides: zero is white
    square = image is not None or max(shown.shape) < 4 * min(shown.shape)  # else a weight would be a thin line
    drawn = ax.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="none",
                      aspect="equal" if square else "auto")  # fmt: skip
    ax.figure.colorbar(drawn, ax=ax, label="weight", shrink=0.8)
    name = f"layer {layer}: {_shapes(net)[layer]}"
    if image is None:
        ax.set(xlabel="unit", ylabel="input", title=name)
        for axis in (ax.xaxis, ax.yaxis):
            _whole_numbers(axis)
    else:
        ax.set_title(f"{name}, a picture for each unit")
        ax.set_axis_off()
    return ax


def _tiled(weight: np.ndarray, image: Sequence[int]) -> np.ndarray:
    """Columns of (in, out) as pictures side by side, with a line of NaN between them."""
    try:
        height, width = image
    except (TypeError, ValueError):
        raise TypeError(f"image must be (height, width), got {image!r}") from None
    height, width = (checks.integer("image", side, 1) for side in (height, width))
    n_in, n_out = weight.shape
    if height * width != n_in:
        raise ValueError(f"image must have {n_in} pixels, the inputs of this layer, got {height} x {width}")
    columns = min(n_out, max(1, round((1.4 * n_out * height / width) ** 0.5)))
    rows = -(-n_out // columns)
    tiles = np.full((rows * columns, height + 1, width + 1), np.nan)
    tiles[:n_out, :height, :width] = weight.T.reshape(n_out, height, width)
    grid = tiles.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def _distributions(net: MLP, ax: Axes | None) -> Axes:
    """A histogram for each layer, one below the other over the same values, each as high as the others."""
    n_layers = len(net.weights)
    ax = _axes(ax, 6.4, 1.4 + 0.6 * n_layers)
    for k, weight in enumerate(net.weights):
        values = np.asarray(weight, np.float64).ravel()
        values = values[np.isfinite(values)]
        counts, edges = np.histogram(values, bins=int(np.clip(values.size**0.5, 30, 120)))
        base = n_layers - 1 - k  # the first layer on top
        ax.stairs(base + 0.85 * counts / max(counts.max(), 1), edges, baseline=base, fill=True, color=COLOURS[0],
                  alpha=0.75)  # fmt: skip
        ax.axhline(base, color=GRID, lw=1, zorder=0)
        rms = np.sqrt(np.mean(np.square(values))) if values.size else np.nan
        ax.text(1.02, base, f"{rms:.3g}", color=NOTE, transform=ax.get_yaxis_transform())
    ax.text(1.02, n_layers, "RMS", color=NOTE, transform=ax.get_yaxis_transform())
    ax.axvline(0, color=FRAME, lw=1, zorder=0)
    ax.set_yticks(range(n_layers)[::-1], [f"{k}: {shape}" for k, shape in enumerate(_shapes(net))])
    ax.set(xlabel="weight", ylabel="layer", ylim=(-0.1, n_layers + 0.05))
    ax.tick_params(axis="y", length=0)
    return ax


def decision_boundary(
    net: MLP, X: Array, y: Array, ax: Axes | None = None, *, threshold: float | None = None, resolution: int = 200
) -> Axes:
    """Draw what a classifier of two features answers over the plane, and the points that it is asked about.

    With one output: the output as colours, and a line where it crosses `threshold`. With several outputs: the regions
    where each is the largest.

    Parameters
    ----------
    net : MLP
        With two inputs.
    X : array_like, (n, 2)
    y : array_like
        Labels (n,), which choose colour and mark of the points: two of them for one output, 0 to K - 1 for K outputs;
        or rows of targets (n, K), of which the largest is the label; or (n, 1).
    ax : Axes, optional
    threshold : float, optional
        Of one output, where the answer changes. 0.5 for a sigmoid output, else 0: right for logits, and for targets of
        -1 and 1; a network that learnt targets of 0 and 1 with a squared error wants 0.5.
    resolution : int, default 200
        Points of the plane along each side.

    Returns
    -------
    Axes
    """
    _check_net(net)
    if net.sizes[0] != 2:
        raise ValueError(f"net must have 2 inputs to be drawn over the plane, it has {net.sizes[0]}")
    points = arguments.features(X, net._spec).astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError("X must be finite")
    labels = _labels(y, len(points), net.sizes[-1])
    resolution = checks.integer("resolution", resolution, 2)
    if threshold is not None and net.sizes[-1] > 1:
        raise ValueError(f"threshold is for a network with one output, this one has {net.sizes[-1]}")
    if threshold is None:
        threshold = 0.5 if net._spec.activations[-1].name == "sigmoid" else 0.0
    if not isinstance(threshold, Real):
        raise TypeError(f"threshold must be a number, got {threshold!r}")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")

    ax = _axes(ax, 5.6, 4.4)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * np.where(high > low, high - low, 1)
    across, up = (np.linspace(a, b, resolution) for a, b in zip(low - margin, high + margin))
    plane = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    out = net.predict(plane).astype(np.float64).reshape(resolution, resolution, -1)
    paint = _halves if net.sizes[-1] == 1 else _regions
    paint(ax, across, up, out, threshold)
    known = np.unique(labels)
    for k, label in enumerate(known):
        mark = k if net.sizes[-1] == 1 else int(label)
        ax.scatter(
            *points[labels == label].T, s=36, color=COLOURS[mark % len(COLOURS)], marker=MARKERS[mark % len(MARKERS)],
            edgecolor="white", lw=0.8, zorder=3, label=f"label {label:g}",
        )  # fmt: skip
    ax.set(xlabel="x0", ylabel="x1", xlim=across[[0, -1]], ylim=up[[0, -1]])
    ax.legend(ncols=min(len(known), 5), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax


def _labels(y: Any, n: int, n_out: int) -> np.ndarray:
    """The label of each of n rows as a float."""
    array = real_array("y", y)
    if array.shape == (n, n_out) and n_out > 1:
        array = array.argmax(axis=1)
    if array.shape not in ((n,), (n, 1)):
        raise ValueError(f"X and y are inconsistent: X has {n} rows, y has shape {array.shape}")
    labels = array.reshape(n).astype(np.float64)
    if not np.isfinite(labels).all():
        raise ValueError("y must be finite")
    known = np.unique(labels)
    if n_out == 1 and len(known) > 2:
        raise ValueError(f"y must hold two labels for a network with one output, got {len(known)}")
    odd = known[~np.isin(known, np.arange(n_out))]
    if n_out > 1 and len(odd):
        raise ValueError(f"y must hold labels from 0 to {n_out - 1}, got {odd[0]:g}")
    return labels


def _halves(ax: Axes, across: np.ndarray, up: np.ndarray, out: np.ndarray, threshold: float) -> None:
    """One output as colours, the label's on either side of the threshold."""
    from matplotlib.colors import LinearSegmentedColormap

    values = out[:, :, 0]
    far = np.abs(values - threshold).max(initial=0, where=np.isfinite(values)) or 1.0
    colours = LinearSegmentedColormap.from_list("halves", [COLOURS[0], "white", COLOURS[1]])
    drawn = ax.imshow(values, cmap=colours, vmin=threshold - far, vmax=threshold + far, alpha=0.6, origin="lower",
                      extent=(*across[[0, -1]], *up[[0, -1]]), aspect="auto", interpolation="none")  # fmt: skip
    if values.min() < threshold < values.max():
        ax.contour(across, up, values, levels=[threshold], colors="black", linewidths=1.5)
    ax.figure.colorbar(drawn, ax=ax, label=f"output; the line is at {threshold:g}")


def _regions(ax: Axes, across: np.ndarray, up: np.ndarray, out: np.ndarray, _: float) -> None:
    """Where each of several outputs is the largest: there it lies above the others, and the contour is smooth."""
    for k in range(out.shape[2]):
        lead = out[:, :, k] - np.delete(out, k, axis=2).max(axis=2)
        if lead.max() > 0:
            ax.contourf(across, up, lead, levels=[0, np.inf], colors=[COLOURS[k % len(COLOURS)]], alpha=0.3)
            if lead.min() < 0:
                ax.contour(across, up, lead, levels=[0], colors="white", linewidths=1)


# ------------------------------------------------------------------ the benchmark


def benchmark(record: str | os.PathLike[str], ax: Axes | None = None) -> Axes:
    """Draw a run of the benchmark: what each peer takes as a multiple of fastbp's time.

    Parameters
    ----------
    record : str or path
        What ``python -m fastbp bench --json FILE`` wrote.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        The file is no such record.
    """
    if not isinstance(record, (str, os.PathLike)):
        raise TypeError(f"record must be the path of a file, got {record!r}")
    run = figures.Record.load(os.fspath(record)).fewest
    ax = _axes(ax, *figures.size(len(run.cells)))
    run.draw(ax)
    ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), borderaxespad=2)
    return ax


# ------------------------------------------------------------------ what they share


def _check(argument: str, value: Any, wanted: str, *has: str) -> None:
    """By what it has: this module stands below those that make what it draws."""
    if not all(hasattr(value, name) for name in has):
        raise TypeError(f"{argument} must be {wanted}, got {type(value).__name__}")


def _check_net(net: MLP) -> None:
    _check("net", net, "a fastbp.MLP", "_spec", "weights", "loss_and_grad")


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the Axes of a new figure of so many inches; without the frame that says nothing."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    except ImportError as error:
        raise ImportError("fastbp.plot needs matplotlib: pip install 'fastbp[plot]'") from error
    if ax is None:
        ax = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    elif not isinstance(ax, Axes):
        raise TypeError(f"ax must be an Axes of matplotlib or None, got {ax!r}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(FRAME)
    return ax


def _stack(ax: Axes, heights: Sequence[float]) -> list[Axes]:
    """Panels below one another that share the place of `ax`, which becomes the first, and its x axis."""
    if len(heights) == 1:
        return [ax]
    place = _place(ax)
    # Room for titles: a layout engine makes it, without one the panels must be apart.
    apart = 0.6 if ax.figure.get_layout_engine() is None else 0.1
    grid = place.subgridspec(len(heights), 1, height_ratios=heights, hspace=apart)
    ax.set_subplotspec(grid[0])
    return [ax, *(_axes(ax.figure.add_subplot(part, sharex=ax), 0, 0) for part in list(grid)[1:])]


def _beside(ax: Axes, n: int) -> list[Axes]:
    """Panels side by side that share the place of `ax`, which becomes the first, and its y axis."""
    if n == 1:
        return [ax]
    grid = _place(ax).subgridspec(1, n)
    ax.set_subplotspec(grid[0])
    return [ax, *(_axes(ax.figure.add_subplot(part, sharey=ax), 0, 0) for part in list(grid)[1:])]


def _place(ax: Axes) -> Any:
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax must be one of plt.subplots or fig.add_subplot: several panels are to share its place")
    return place


def _shapes(net: MLP) -> list[str]:
    return [f"{n_in} -> {n_out}" for n_in, n_out in zip(net.sizes, net.sizes[1:])]


def _log_scale(ax: Axes, values: np.ndarray, wanted: bool | None = True, *, axis: str = "y") -> None:
    """A logarithmic y axis, or x axis; None: where all values are positive, and far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter

    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    span = positive.max() / positive.min() if len(positive) else 1
    if not (len(positive) == len(finite) and span > _LOG_SPAN if wanted is None else wanted):
        return
    (ax.set_yscale if axis == "y" else ax.set_xscale)("log", nonpositive="mask")
    its: Any = ax.yaxis if axis == "y" else ax.xaxis
    its.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 100 else (1,)))
    its.set_minor_formatter(NullFormatter())
    if len(positive) and positive.min() > 1e-4 and positive.max() < 1e4:  # else powers of ten
        its.set_major_formatter("{x:g}")


def _steps(ax: Axes) -> None:
    """An x axis that counts training steps."""
    ax.set_xlabel("training step")
    _whole_numbers(ax.xaxis)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.set_major_formatter("{x:,.0f}")
