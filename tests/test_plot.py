"""Pictures: what is drawn, where, on which scale, with which words; the columns of a history; `MLP.summary`."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tolerance import assert_close

import fastbp
from fastbp import plot
from fastbp.bench.figures import PEERS, Cell, Record
from fastbp.history import History

ROOT = Path(__file__).resolve().parents[1]
STEPS = np.arange(10, 60, 10)


def made(loss=(2.0, 1.0, 0.1, 0.05, 0.01), **columns):
    """A history of five entries."""
    columns = {name: np.array(values, np.float64) for name, values in columns.items()}
    return History(np.array(loss, np.float64), STEPS[: len(loss)], 0.5, 50, columns)


@pytest.fixture
def pyplot():
    """pyplot with no figure, before and after; every setting is as it was."""
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    pyplot.close("all")
    before = dict(pyplot.rcParams)
    yield pyplot
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()  # what is only found when it is drawn
    pyplot.close("all")
    assert dict(pyplot.rcParams) == before


def data(line):
    return line.get_xdata().tolist(), line.get_ydata().tolist()


def titles(axes):
    return [ax.get_title(loc="left") for ax in axes.figure.axes]


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ------------------------------------------------------------------ a history as numbers


def test_a_history_is_a_dict_of_lists_that_json_takes():
    found = made(val_loss=[1, 2, 3, 4, np.nan], lr=[0.1] * 5).to_dict()
    assert list(found) == ["step", "loss", "val_loss", "lr"]
    assert found["step"] == STEPS.tolist() and found["val_loss"][:4] == [1, 2, 3, 4] and np.isnan(found["val_loss"][4])
    assert all(type(value) in (int, float) for column in found.values() for value in column)
    del found["val_loss"]
    assert json.loads(json.dumps(found)) == found


def test_a_history_is_a_frame_with_the_step_as_index():
    pytest.importorskip("pandas")
    frame = made(val_accuracy=np.arange(5.0)).to_frame()
    assert frame.index.name == "step" and frame.index.tolist() == STEPS.tolist()
    assert list(frame.columns) == ["loss", "val_accuracy"]
    assert frame["loss"].tolist() == made().loss.tolist() and frame["val_accuracy"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "package, use, extra",
    [
        ("pandas", "history.to_frame()", "pandas"),
        ("matplotlib", "history.plot()", "plot"),
        ("matplotlib", "fastbp.plot.weights(net)", "plot"),
    ],
)
def test_what_is_missing_is_named_when_it_is_used(monkeypatch, package, use, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # `import` of it fails
    with pytest.raises(ImportError, match=rf"{package}: pip install 'fastbp\[{extra}\]'"):
        eval(use, {"history": made(), "net": fastbp.MLP((2, 1)), "fastbp": fastbp})


def test_nothing_is_imported_before_its_first_use():
    code = (
        "import sys, fastbp, fastbp.history, fastbp.plot\n"
        "fastbp.MLP((2, 1), backend='reference').fit([[1.0, 2.0]], [1.0], steps=3).to_dict()\n"
        "assert not {'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ------------------------------------------------------------------ a history as a picture


def test_the_loss_alone_is_one_panel(pyplot):
    ax = made().plot()
    assert ax.figure.axes == [ax] and titles(ax) == ["loss"]
    assert ax.get_xlabel() == "training step" and ax.get_legend() is None
    (line,) = ax.lines
    assert data(line) == (STEPS.tolist(), made().loss.tolist())
    assert line.get_marker() == "o"  # few entries


def test_every_column_stands_in_the_panel_of_its_name(pyplot):
    history = made(lr=[1, 1, 1, 0.5, 0.5], val_loss=[3, 2, np.nan, 1, np.inf], accuracy=[0.1] * 5,
                   val_accuracy=[0.2] * 5, val_top_3=[0.9] * 5)  # fmt: skip
    ax = history.plot()
    assert titles(ax) == ["loss", "accuracy", "top 3", "learning rate"]
    loss, accuracy, top, rate = ax.figure.axes
    assert ax is loss and words(loss) == ["training", "validation"]
    training, validation = loss.lines
    assert data(training) == (STEPS.tolist(), history.loss.tolist())
    assert data(validation) == ([10, 20, 40], [3, 2, 1])  # entries without a value do not break the line
    assert [line.get_linestyle() for panel in (loss, accuracy, top, rate) for line in panel.lines] == [
        *("-", "--"), *("-", "--"), "--", "-",
    ]  # fmt: skip
    assert data(rate.lines[0])[1] == [1, 1, 1, 0.5, 0.5]
    assert [panel.get_xlabel() for panel in ax.figure.axes] == ["", "", "", "training step"]
    rate.set_xlim(0, 25)  # what is done to one is done to all
    assert all(panel.get_xlim() == (0, 25) for panel in ax.figure.axes)


def test_a_learning_rate_that_never_changes_is_not_drawn(pyplot):
    assert titles(made(lr=[0.1] * 5).plot()) == ["loss"]
    assert titles(made(lr=[0.1] * 4 + [0.2]).plot()) == ["loss", "learning rate"]


@pytest.mark.parametrize(
    "loss, log, scale",
    [
        ([2.0, 1.0, 0.1], None, "log"),
        ([2.0, 1.0, 0.3], None, "linear"),  # not far apart
        ([2.0, 1.0, -0.1], None, "linear"),
        ([2.0, 0.0, 0.01], None, "linear"),
        ([2.0, np.nan, 0.1], None, "log"),
        ([2.0, 1.0, 0.1], False, "linear"),
        ([2.0, 1.0, 0.3], True, "log"),
        ([2.0, 0.0, 0.3], True, "log"),
    ],
)
def test_the_scale_of_the_loss(pyplot, loss, log, scale):
    assert made(loss).plot(log=log).get_yscale() == scale


def test_metrics_have_a_linear_scale_and_the_learning_rate_a_fitting_one(pyplot):
    ax = made(accuracy=[0.01, 0.1, 0.2, 0.3, 0.9], lr=[1, 0.1, 0.01, 0.001, 0.0001]).plot(log=False)
    assert [panel.get_yscale() for panel in ax.figure.axes] == ["linear", "linear", "log"]


def test_panels_share_the_place_of_the_axes_they_are_given(pyplot):
    figure, (left, right) = pyplot.subplots(1, 2)
    ax = made(val_loss=[1] * 5, accuracy=[1] * 5, lr=[1, 2, 3, 4, 5]).plot(right)
    figure.canvas.draw()
    assert ax is right and len(figure.axes) == 4
    boxes = [panel.get_position() for panel in (right, *figure.axes[2:])]
    assert all(box.x0 > left.get_position().x1 for box in boxes)
    assert all(above.y0 > below.y1 for above, below in zip(boxes, boxes[1:]))
    assert made().plot(left) is left and len(figure.axes) == 4


def test_what_a_history_cannot_draw_is_refused_before_a_figure_is_made(pyplot):
    with pytest.raises(ValueError, match="no entry"):
        made([]).plot()
    with pytest.raises(TypeError, match="log must be True or False"):
        made().plot(log="yes")
    assert pyplot.get_fignums() == []
    with pytest.raises(TypeError, match="ax must be an Axes of matplotlib or None, got 3"):
        made().plot(3)
    with pytest.raises(ValueError, match="one of plt.subplots"):
        made(accuracy=[1] * 5).plot(pyplot.figure().add_axes((0.1, 0.1, 0.5, 0.5)))


def test_panels_in_an_axes_without_a_layout_leave_room_for_their_titles(pyplot):
    _, ax = pyplot.subplots()
    made(accuracy=[1] * 5, top_2=[1] * 5, lr=[1, 2, 3, 4, 5]).plot(ax)
    ax.figure.canvas.draw()
    tight = [panel.get_tightbbox().y1 for panel in ax.figure.axes]  # with the title
    frames = [panel.get_window_extent().y0 for panel in ax.figure.axes]
    assert len(frames) == 4 and all(above > title for above, title in zip(frames, tight[1:]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plot.history(3), "history must be what MLP.fit returned, got int"),
        (lambda: plot.weights(3), "net must be a fastbp.MLP, got int"),
        (lambda: plot.gradients(3), "recorder must be a GradientRecorder, got int"),
        (lambda: plot.decision_boundary(3, POINTS, [0, 1, 0, 1]), "net must be a fastbp.MLP, got int"),
        (lambda: plot.GradientRecorder(POINTS, [0] * 4, loss="mse").record(3), "net must be a fastbp.MLP, got int"),
    ],
)
def test_the_wrong_object_is_refused(pyplot, call, message):
    with pytest.raises(TypeError, match=message):
        call()
    assert pyplot.get_fignums() == []


def test_a_run_of_fit_is_drawn_as_it_is(pyplot, backend):
    net = fastbp.MLP((2, 3, 1), seed=1, backend=backend)
    rng = np.random.default_rng(1)
    history = net.fit(rng.random((32, 2)), rng.random(32), epochs=30, batch_size=8)
    (line,) = history.plot().lines
    assert data(line) == (list(range(4, 124, 4)), history.loss.tolist())
    assert line.get_marker() == ""


# ------------------------------------------------------------------ gradients


X = np.random.default_rng(0).standard_normal((40, 3))
Y = X[:, :2] ** 2


@pytest.mark.parametrize("bias", [True, False])
def test_a_recorder_measures_the_gradient_of_each_layer(backend, bias):
    net = fastbp.MLP((3, 5, 2), activation="tanh", bias=bias, dtype=np.float64, seed=1, backend=backend)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    recorder.record(net)
    out = net.forward(X)
    net.backward(2 * (out - Y) / Y.size)
    biases = net.grad_biases or ([], [])
    wanted = [np.sqrt(np.mean(np.append(weight.ravel(), b) ** 2)) for weight, b in zip(net.grad_weights, biases)]
    assert_close(recorder.rms[0], wanted, np.float64)
    assert recorder.layers == ["3 -> 5", "5 -> 2"] and recorder.step == [0]


def test_a_recorder_is_a_callback_and_counts_a_step_once():
    net = fastbp.MLP((3, 5, 2), seed=1)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    recorder.on_train_begin(net)
    for _ in range(3):
        net.fit(X, Y, steps=2)
        recorder.on_epoch_end(net, {"loss": 1.0})
    recorder.on_train_begin(net)  # of the next fit
    assert recorder.step == [0, 2, 4, 6] and np.shape(recorder.rms) == (4, 2)
    with pytest.raises(ValueError, match="this recorder has gradients of"):
        recorder.record(fastbp.MLP((3, 4, 2)))
    assert len(recorder.step) == 4


def test_gradients_are_a_line_for_each_layer_on_a_log_scale(pyplot):
    net = fastbp.MLP((3, 5, 5, 2), seed=1)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    for _ in range(3):
        recorder.record(net)
        net.fit(X, Y, steps=2)
    ax = plot.gradients(recorder)
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "training step" and "RMS" in ax.get_ylabel()
    assert [data(line) for line in ax.lines] == [([0, 2, 4], [r[k] for r in recorder.rms]) for k in range(3)]
    assert words(ax) == ["2: 5 -> 2", "1: 5 -> 5", "0: 3 -> 5"]  # the last layer on top, as vanishing gradients lie
    assert len({line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color())
                for line in ax.lines}) == 3  # fmt: skip


def test_gradients_that_vanish_are_seen_and_zeros_are_said(pyplot):
    deep = fastbp.MLP((3, *[8] * 8, 2), activation="sigmoid", seed=1)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    recorder.record(deep)
    assert recorder.rms[0][0] < 1e-4 * recorder.rms[0][-1]
    dead = fastbp.MLP((3, 5, 2), init="zeros", seed=1)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    recorder.record(dead)
    ax = plot.gradients(recorder)
    assert words(ax) == ["1: 5 -> 2", "0: 3 -> 5 (no gradient)"]
    assert np.isnan(ax.lines[0].get_ydata()).all()


def test_of_many_layers_some_are_named(pyplot):
    deep = fastbp.MLP((3, *[4] * 30, 2), seed=1)
    recorder = plot.GradientRecorder(X, Y, loss="mse")
    recorder.record(deep)
    ax = plot.gradients(recorder)
    assert len(ax.lines) == 31 and words(ax)[-1].startswith("0: ") and len(words(ax)) == 11


def test_an_empty_recorder_is_refused(pyplot):
    with pytest.raises(ValueError, match=r"record\(net\)"):
        plot.gradients(plot.GradientRecorder(X, Y, loss="mse"))


# ------------------------------------------------------------------ weights


def test_weights_of_all_layers_are_histograms_one_below_the_other(pyplot):
    net = fastbp.MLP((30, 20, 4), seed=1)
    ax = plot.weights(net)
    assert ax.get_xlabel() == "weight" and [t.get_text() for t in ax.get_yticklabels()] == ["0: 30 -> 20", "1: 20 -> 4"]
    first, second = (patch.get_data() for patch in ax.patches)
    for k, (drawn, weight) in enumerate(zip((first, second), net.weights)):
        counts, edges = np.histogram(weight.astype(np.float64), bins=len(drawn.values))
        assert_close(drawn.edges, edges, np.float64)
        assert_close(drawn.values - drawn.baseline, 0.85 * counts / counts.max(), np.float64)
        assert drawn.baseline == 1 - k
    told = [text.get_text() for text in ax.texts]
    assert told == [*(f"{np.sqrt(np.mean(w.astype(np.float64) ** 2)):.3g}" for w in net.weights), "RMS"]


def test_weights_of_a_layer_are_colours_with_zero_in_the_middle(pyplot):
    net = fastbp.MLP((6, 5, 3), seed=1)
    net.weights[0][2, 3], net.weights[1][2, 1] = -7, 9  # the largest is below zero, or above it
    for layer, k in ((0, 0), (1, 1), (-1, 1), (np.int64(-2), 0)):
        ax = plot.weights(net, layer)
        (drawn,) = ax.images
        np.testing.assert_array_equal(drawn.get_array(), net.weights[k].astype(np.float64))
        assert drawn.norm.vmax == -drawn.norm.vmin == np.abs(net.weights[k]).max()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("unit", "input")
        assert ax.get_title() == ("layer 0: 6 -> 5", "layer 1: 5 -> 3")[k]


@pytest.mark.parametrize("n_out", [1, 5, 12])
def test_weights_of_pixels_are_a_picture_for_each_unit(pyplot, n_out):
    net = fastbp.MLP((2 * 3, n_out), seed=1)
    net.weights[0][:] = np.arange(6)[:, None] + 10 * np.arange(n_out) + 1
    (drawn,) = plot.weights(net, 0, image=(2, 3)).images
    shown = np.ma.filled(drawn.get_array(), np.nan)
    columns = (shown.shape[1] + 1) // 4
    for unit in range(n_out):
        row, column = divmod(unit, columns)
        tile = shown[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        assert tile.tolist() == (np.arange(6).reshape(2, 3) + 10 * unit + 1).tolist()
    assert np.isfinite(shown).sum() == 6 * n_out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layer": 2}, "layer must be from -2 to 1, got 2"),
        ({"layer": 0.0}, "layer must be an integer"),
        ({"layer": True}, "layer must be an integer"),
        ({"image": (2, 3)}, "image needs a layer"),
        ({"layer": 0, "image": (2, 2)}, "image must have 6 pixels, the inputs of this layer, got 2 x 2"),
        ({"layer": 0, "image": (-2, -3)}, "image must be at least 1, got -2"),
        ({"layer": 0, "image": (2, 3.5)}, "image must be an integer, got 3.5"),
        ({"layer": 0, "image": 6}, r"image must be \(height, width\)"),
        ({"layer": 0, "image": (1, 2, 3)}, r"image must be \(height, width\)"),
    ],
)
def test_weights_that_are_not_there_are_refused(pyplot, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plot.weights(fastbp.MLP((6, 5, 3)), **arguments)
    assert pyplot.get_fignums() == []


def test_weights_that_are_zero_or_not_finite_can_be_looked_at(pyplot):
    net = fastbp.MLP((3, 4, 2), init="zeros")
    plot.weights(net)
    plot.weights(net, 0)
    net.weights[0][0, 0], net.weights[1][:] = np.inf, np.nan
    plot.weights(net)
    net.weights[0][1, 1] = -0.5
    assert plot.weights(net, 0).images[0].norm.vmax == 0.5
    assert plot.weights(net, 1).images[0].norm.vmax == 1


# ------------------------------------------------------------------ which way a network decides


def line_net(output_activation="identity"):
    """One output, 0 (0.5 of a sigmoid) where x0 == 1."""
    return fastbp.MLP((2, 1), init=[([[1.0], [0.0]], [-1.0])], output_activation=output_activation)


POINTS = np.array([[0, 0], [2, 0], [0, 1], [2, 1]], np.float64)


@pytest.mark.parametrize(
    "activation, threshold, at, where",
    [("identity", None, 0, 1), ("sigmoid", None, 0.5, 1), ("identity", 0.5, 0.5, 1.5)],
)
def test_the_line_of_one_output_lies_at_the_threshold(pyplot, activation, threshold, at, where):
    net = line_net(activation)
    ax = plot.decision_boundary(net, POINTS, [0, 1, 0, 1], threshold=threshold, resolution=50)
    (drawn,) = ax.images
    assert drawn.get_array().shape == (50, 50)
    left, right, bottom, top = drawn.get_extent()
    assert (left, right, bottom, top) == (*ax.get_xlim(), *ax.get_ylim()) and left < 0 < 2 < right and bottom < 0 < top
    wanted = net.predict([[left, top], [right, bottom]])[:, 0]
    assert drawn.origin == "lower"
    assert [drawn.get_array()[-1, 0], drawn.get_array()[0, -1]] == wanted.tolist()  # the first row is the lowest
    assert_close(at - drawn.norm.vmin, drawn.norm.vmax - at, np.float64)
    (line,) = (c for c in ax.collections if hasattr(c, "levels"))
    assert line.levels.tolist() == [at]
    np.testing.assert_allclose(line.get_paths()[0].vertices[:, 0], where, atol=0.03)
    assert words(ax) == ["label 0", "label 1"]
    assert ax.figure.axes[1].get_ylabel() == f"output; the line is at {at:g}"


def scattered(ax):
    return [c.get_offsets().tolist() for c in ax.collections if not hasattr(c, "levels")]


@pytest.mark.parametrize("y", [[0, 1, 0, 1], [[0], [1], [0], [1]], [-1.0, 1.0, -1.0, 1.0], [False, True, False, True]])
def test_points_are_drawn_label_by_label(pyplot, y):
    ax = plot.decision_boundary(line_net(), POINTS, y, resolution=9)
    assert scattered(ax) == [POINTS[[0, 2]].tolist(), POINTS[[1, 3]].tolist()]


@pytest.mark.parametrize("y", [[2, 0, 2, 0], np.eye(3)[[2, 0, 2, 0]]])
def test_several_outputs_have_regions_in_the_colours_of_their_labels(pyplot, y):
    from matplotlib.colors import to_rgba

    net = fastbp.MLP((2, 3), init=[([[1.0, 0, 0], [0, 1, 0]], [-1.0, -0.5, 0.0])])  # x0 - 1, x1 - 0.5, 0
    ax = plot.decision_boundary(net, POINTS, y, resolution=60)
    filled = [c for c in ax.collections if getattr(c, "filled", False)]
    assert len(filled) == 3
    for k, inside in enumerate([(2, 0.5), (0.5, 1), (0.5, 0.2)]):
        there = [any(path.contains_point(inside) for path in c.get_paths()) for c in filled]
        assert there == [j == k for j in range(3)]
    points = [c for c in ax.collections if not hasattr(c, "levels")]
    assert words(ax) == ["label 0", "label 2"]
    for k, collection in zip((0, 2), points):
        assert tuple(collection.get_facecolor()[0][:3]) == to_rgba(plot.COLOURS[k])[:3]
        assert tuple(filled[k].get_facecolor()[0][:3]) == to_rgba(plot.COLOURS[k])[:3]


@pytest.mark.parametrize(
    "net, X, y, more, message",
    [
        (fastbp.MLP((3, 1)), POINTS, [0, 1, 0, 1], {}, "net must have 2 inputs to be drawn over the plane, it has 3"),
        (line_net(), POINTS[:, :1], [0, 1, 0, 1], {}, "X has 1 column"),
        (line_net(), POINTS[:0], [], {}, "X has no rows"),
        (line_net(), POINTS * np.nan, [0, 1, 0, 1], {}, "X must be finite"),
        (line_net(), POINTS, [0, 1], {}, r"X has 4 rows, y has shape \(2,\)"),
        (line_net(), POINTS, [0, 1, 2, 3], {}, "y must hold two labels"),
        (line_net(), POINTS, list("abab"), {}, "y holds 'a' of type str at row 0"),
        (fastbp.MLP((2, 3)), POINTS, [0, 1, 2, 3], {}, "y must hold labels from 0 to 2, got 3"),
        (fastbp.MLP((2, 3)), POINTS, [0, 0.5, 1, 2], {}, "y must hold labels from 0 to 2, got 0.5"),
        (line_net(), POINTS, [0, 1, 0, 1], {"resolution": 1}, "resolution must be at least 2"),
        (line_net(), POINTS, [0, 1, 0, 1], {"resolution": 9.0}, "resolution must be an integer"),
        (line_net(), POINTS, [0, 1, 0, np.nan], {}, "y must be finite"),
        (line_net(), POINTS, [0, 1, 0, 1], {"threshold": np.inf}, "threshold must be finite"),
        (line_net(), POINTS, [0, 1, 0, 1], {"threshold": "half"}, "threshold must be a number"),
        (fastbp.MLP((2, 3)), POINTS, [0, 1, 2, 0], {"threshold": 0.5}, "threshold is for a network with one output"),
    ],
)
def test_what_is_no_plane_with_labels_is_refused(pyplot, net, X, y, more, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plot.decision_boundary(net, X, y, **more)
    assert pyplot.get_fignums() == []


def test_points_on_a_line_lie_in_a_plane_all_the_same(pyplot):
    for points in (POINTS * [1, 0], POINTS * [0, 1], POINTS[[1] * 4]):
        ax = plot.decision_boundary(line_net(), points, [0, 1, 0, 1], resolution=9)
        for extent, (low, high) in zip(np.ptp(points, axis=0), (ax.get_xlim(), ax.get_ylim()), strict=True):
            assert high - low == pytest.approx(1.3 * extent if extent else 0.3)


def test_a_plane_without_a_boundary_has_no_line(pyplot):
    net = fastbp.MLP((2, 1), init="zeros")
    ax = plot.decision_boundary(net, POINTS[:1], [1], resolution=9)  # one point, one label
    assert not [c for c in ax.collections if hasattr(c, "levels")] and words(ax) == ["label 1"]


# ------------------------------------------------------------------ the benchmark


@pytest.fixture
def record(tmp_path):
    best, median = {"fastbp": 1e-6, "numpy": 4e-6, "torch": 9e-6}, {"fastbp": 5e-6, "numpy": 6e-6, "torch": 7e-5}
    path = tmp_path / "bench.json"
    Record({}, 1, [Cell("2-3-1 b8", "identity, mse", "float32", 1.0, 1.0, best, median)]).save(str(path))
    return path


def test_the_benchmark_is_drawn_from_its_record(pyplot, record):
    for path in (record, str(record)):
        ax = plot.benchmark(path)
        assert ax.get_xscale() == "log" and ax.get_yticklabels()[0].get_text() == "2-3-1 b8  (identity, mse)"
        assert words(ax) == [PEERS["numpy"].label, PEERS["torch"].label]
        assert [c.get_offsets()[0].tolist() for c in ax.collections[:2]] == [[4.0, 0.0], [9.0, 0.0]]
        assert "4.00x" in [text.get_text() for text in ax.texts]


def test_what_is_no_record_is_refused(pyplot, tmp_path):
    with pytest.raises(TypeError, match="record must be the path of a file"):
        plot.benchmark({"cells": []})
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match="is no record of this benchmark"):
        plot.benchmark(tmp_path / "no.json")
    with pytest.raises(FileNotFoundError):
        plot.benchmark(tmp_path / "nowhere.json")
    assert pyplot.get_fignums() == []


# ------------------------------------------------------------------ what all promise


def test_each_picture_goes_into_the_axes_it_is_given_and_nowhere_else(pyplot, record):
    net = fastbp.MLP((2, 3, 2), seed=1)
    recorder = plot.GradientRecorder(POINTS, POINTS, loss="mse")
    recorder.record(net)
    pictures = [
        lambda ax: made(accuracy=[1] * 5).plot(ax),
        lambda ax: plot.gradients(recorder, ax),
        lambda ax: plot.weights(net, ax=ax),
        lambda ax: plot.weights(net, 0, ax),
        lambda ax: plot.decision_boundary(net, POINTS, [0, 1, 0, 1], ax, resolution=9),
        lambda ax: plot.benchmark(record, ax),
    ]
    figure, grid = pyplot.subplots(2, 3, figsize=(20, 12), layout="constrained")
    for picture, ax in zip(pictures, grid.flat):
        assert picture(ax) is ax
        assert pyplot.get_fignums() == [figure.number]


def test_pictures_leave_the_network_as_it_was(pyplot):
    net = fastbp.MLP((2, 3, 2), seed=1)
    before = net.flatten()
    net.forward(POINTS)
    plot.GradientRecorder(POINTS, POINTS, loss="mse").record(net)
    plot.weights(net)
    plot.decision_boundary(net, POINTS, [0, 1, 0, 1], resolution=9)
    assert net.step == 0 and (net.flatten() == before).all()
    net.backward(np.ones((4, 2)))  # the pending forward is still there


def test_the_pictures_of_the_pages_are_those_their_code_draws(pyplot):
    tool = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
    for page in tool["PAGES"]:
        for path, ax in tool["pictures"](ROOT / page):
            shown = path.read_text()
            assert ax.get_xlabel() and f">{ax.get_xlabel()}</text>" in shown, f"make pictures: {path.name}"
            for text in (*ax.get_legend_handles_labels()[1], *titles(ax)):
                assert text in ("", "training") or f">{text}</text>" in shown.replace("&gt;", ">"), path.name


# ------------------------------------------------------------------ MLP.summary


def test_summary_prints_shapes_parameters_and_costs(backend, capsys):
    net = fastbp.MLP((7, 5, 3), activation="relu", backend=backend)
    assert net.summary(10, loss="softmax_cross_entropy", optimizer=fastbp.SGD(momentum=0.9)) is None
    out = capsys.readouterr().out
    assert out.startswith("network     7-5-3, float32, 58 parameters\nstep        10 rows, softmax_cross_entropy, sgd_")
    # FLOP and bytes by hand, as in test_explain.py, a velocity among them
    first = 4 * (5 * (8 * 5) + 10 * (2 * 7 + 2 * 5 + 2 * 5))
    last = 4 * (5 * (6 * 3) + 5 * 3 + 10 * (2 * 5 + 2 * 3 + 3 * 3))
    assert [line.split() for line in out.splitlines()[3:]] == [
        "layer weight bias activation parameters FLOP bytes".split(),
        ["0", "7", "x", "5", "5", "relu", "40", "1,400", f"{first:,}"],
        ["1", "5", "x", "3", "3", "identity", "18", "900", f"{last:,}"],
        ["all", "58", "2,300", f"{first + last:,}"],
    ]
    fastbp.MLP((7, 3), bias=False).summary()
    assert capsys.readouterr().out.splitlines()[4].split()[:7] == ["0", "7", "x", "3", "-", "identity", "21"]


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"loss": "mes"}, {"optimizer": 3}])
def test_summary_refuses_what_fit_refuses(arguments):
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        fastbp.MLP((3, 2)).summary(**arguments)
