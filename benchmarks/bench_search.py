"""Speed bars of `MLPSearchCV`: 24 candidates on 5 folds, beside `GridSearchCV` of the same estimator in two processes.

`python benchmarks/bench_search.py` prints a table. Each measurement has a process of its own, in which the search is
made twice: the first is what a program waits for that searches once, and holds the start of joblib's processes; at the
second they are there. The contenders take turns, and the median of the rounds' ratios counts, by the clock. Scores are
compared first, bit by bit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

if __name__ == "__main__":  # before NumPy is loaded, and in the processes of a search too
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore"

import pytest
from sklearn import datasets
from sklearn.model_selection import GridSearchCV

from fastbp import backends
from fastbp.bench.figures import aligned
from fastbp.sklearn import MLPClassifier, MLPSearchCV

ROUNDS = 3
GRID = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2], "learning_rate_init": [1e-3, 3e-3, 1e-2], "activation": ["relu", "tanh"]}
DATA = {"digits": datasets.load_digits, "iris": datasets.load_iris, "breast_cancer": datasets.load_breast_cancer}
BARS = {"digits": 1.3, "iris": 3.0, "breast_cancer": 1.0}  # times as fast as the processes: the first search
AGAIN = 1.0  # the second one: nowhere slower
WHO = {"processes": (GridSearchCV, "n_jobs"), "threads": (MLPSearchCV, "n_threads")}


def search(data: str, who: str) -> dict[str, list]:
    """Seconds of two searches, and the mean scores."""
    X, y = DATA[data](return_X_y=True)
    X = X / X.max(axis=0).clip(1e-9)
    net = MLPClassifier((100,), batch_size=32, max_iter=10, random_state=0)
    kind, workers = WHO[who]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        found = kind(net, GRID, cv=5, refit=False, **{workers: 2}).fit(X, y)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "scores": found.cv_results_["mean_test_score"].tolist()}


def measured(data: str, rounds: int = ROUNDS) -> dict[str, list[list[float]]]:
    """Seconds of both contenders, (rounds, 2)."""
    seconds: dict[str, list[list[float]]] = {who: [] for who in WHO}
    for _ in range(rounds):
        scores = []
        for who in WHO:
            done = subprocess.run([sys.executable, __file__, data, who], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            seconds[who].append(found["seconds"])
            scores.append(found["scores"])
        if scores[0] != scores[1]:
            raise ArithmeticError(f"{data}: other scores than GridSearchCV's")
    return seconds


def ratio(seconds: dict[str, list[list[float]]], k: int) -> float:
    """How many times as fast threads are: in search k of a process."""
    pairs = zip(seconds["processes"], seconds["threads"])
    return statistics.median(processes[k] / threads[k] for processes, threads in pairs)


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(search(*sys.argv[1:])))
        return
    rows = [["24 candidates, 5 folds", "GridSearchCV, n_jobs=2", "MLPSearchCV", "times as fast", "the second search",
             "MLPSearchCV", "times as fast"]]  # fmt: skip
    for data in DATA:
        seconds = measured(data)
        row = [data]
        for k in (0, 1):
            best = [min(of[k] for of in seconds[who]) for who in WHO]
            row += [f"{best[0]:.2f} s", f"{best[1]:.2f} s", f"{ratio(seconds, k):.2f}x"]
        rows.append(row)
    print(aligned(rows))


@pytest.mark.parametrize("data", DATA)
def test_a_search_keeps_its_bar(data, capsys):
    if backends.missing("cython") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs the engine and two cores")
    seconds = measured(data)
    first, second = ratio(seconds, 0), ratio(seconds, 1)
    with capsys.disabled():
        print(f"\n{data}: {first:.2f}x (bar {BARS[data]}), the second search {second:.2f}x (bar {AGAIN})", end=" ")
    assert first >= BARS[data] and second >= AGAIN


if __name__ == "__main__":
    main()
