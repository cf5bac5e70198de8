"""Speed bars: what an optimizer, and what is done around it, costs beside a step of plain SGD.

Time of this process, interleaved: other processes on the machine count for little.
"""

from dataclasses import replace

import pytest
from rounds import median_ratio, seconds_of

import fastbp
from fastbp import schedules
from fastbp.bench.contenders import CONTENDERS, LR, WORKLOADS, Problem
from fastbp.bench.measure import steps_in

ROUNDS, CALL_SECONDS = 25, 0.25
CELLS = {workload.name: workload for workload in WORKLOADS}
LR = LR

BARS = [  # cell, what, its optimizer, at most so many times a step of SGD
    *(("784-128-10 b32", what, rule, 1.05) for what, rule in (
        ("weight decay", fastbp.SGD(LR, weight_decay=1e-3)),
        ("clipping by value", fastbp.SGD(LR, clip_value=1.0)),
        ("rates per layer", fastbp.SGD(LR, lr_scale=(1.0, 0.5))),
        ("cosine", fastbp.SGD(schedules.Cosine(LR, 10**6))),
        ("callable", fastbp.SGD(lambda step: LR / (1 + 1e-6 * step))),
    )),
    ("784-128-10 b32", "momentum", fastbp.SGD(LR, momentum=0.9), 1.15),
    ("784-128-10 b128", "momentum", fastbp.SGD(LR, momentum=0.9), 1.05),
    ("1024x3 b512", "momentum", fastbp.SGD(LR, momentum=0.9), 1.04),
    ("784-128-10 b32", "Adam", fastbp.Adam(LR), 1.3),
    ("784-128-10 b128", "Adam", fastbp.Adam(LR), 1.1),
    ("1024x3 b512", "Adam", fastbp.Adam(LR), 1.07),
    ("784-128-10 b32", "dropout", fastbp.SGD(LR), 1.1),
    ("784-128-10 b32", "input_dropout", fastbp.SGD(LR), 1.1),
]  # fmt: skip


@pytest.mark.parametrize("cell, what, rule, most", BARS, ids=[f"{what}, {cell}" for cell, what, _, _ in BARS])
def test_what_an_optimizer_costs(cell, what, rule, most, capsys):
    problem = Problem(replace(CELLS[cell], rows=max(CELLS[cell].batch, 2048)))
    drops = {what: 0.5} if "dropout" in what else {}

    steps = steps_in(CALL_SECONDS, CONTENDERS["fastbp"](problem))

    def run(rule, **drops):
        w = problem.workload
        net = fastbp.MLP(w.sizes, activation="relu", init=problem.weights, seed=0, **drops)
        return lambda: net.fit(problem.X, problem.y, loss=w.loss, optimizer=rule, batch_size=w.batch, steps=steps,
                               shuffle=False, n_threads=1)  # fmt: skip

    times = seconds_of(ROUNDS, {"SGD": run(fastbp.SGD(LR)), what: run(rule, **drops)})
    ratio = median_ratio(times, what, "SGD")
    with capsys.disabled():
        us = {name: min(seconds) / steps * 1e6 for name, seconds in times.items()}
        print(f"\n{cell}: {what} {us[what]:.1f} us, {ratio:.3f} of SGD's {us['SGD']:.1f}", end=" ")
    assert ratio <= most
