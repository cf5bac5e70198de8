"""A run of L-BFGS: SciPy's driver on the dense vectors of the network."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fastbp.backends.protocol import assign
from fastbp.errors import NonFiniteError, StopTraining
from fastbp.history import History
from fastbp.optimizers import LBFGS
from fastbp.training.state import TrainingState


def fit(
    rule: LBFGS,
    params: np.ndarray,
    state: TrainingState,
    trained: np.ndarray,
    steps: int,
    eval_every: int | None,
    loss_and_grad: Callable[[], tuple[float, np.ndarray]],
    why_stop: Callable[[], str | None] | None = None,
) -> History:
    """At most `steps` iterations, each a step and an epoch; where there are fewer the history has SciPy's reason.

    Parameters
    ----------
    params : ndarray
        The padded buffer; at the end, or where the run is cut short, it holds the last finished iteration.
    trained : ndarray of bool, (n_params,)
        Not those that are frozen.
    loss_and_grad : callable
        For the parameters that the buffer holds.
    why_stop : callable, optional
        Asked before each evaluation: why the run is to end at its last finished iteration, or None.

    Raises
    ------
    NonFiniteError
        The loss is NaN or infinite where the run begins.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError("the optimizer LBFGS needs SciPy: pip install 'fastbp[scipy]'") from error

    began, spec, first = time.perf_counter(), state.spec, state.step
    kept = params.copy()  # of the last finished iteration
    before: list[float] = []  # the loss before each iteration, and after the last
    loss, step, stopped = [], [], None

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        reason = None if why_stop is None else why_stop()
        if reason is not None:
            raise StopTraining(reason)
        spec.unflatten_into(params, x)
        value, gradient = loss_and_grad()
        if not before:
            if not np.isfinite(value):
                raise NonFiniteError(f"the loss is {value} before the first iteration", state.step, state.epoch)
            before.append(value)
        return value, np.where(trained, gradient, 0).astype(np.float64)

    def finish(intermediate_result) -> None:
        state.enter_family("lbfgs")
        made, value = kept.copy(), float(intermediate_result.fun)
        spec.unflatten_into(made, intermediate_result.x)
        assign([kept, state.count, state.place], [made, state.count + 1, (state.epoch + 1, 0)])
        if eval_every is None or state.step % eval_every == 0:
            loss.append(before[-1] if eval_every is None else value)
            step.append(state.step)
        before.append(value)

    try:
        if steps:
            options = {
                "maxcor": rule.history_size, "gtol": rule.gtol, "ftol": rule.ftol, "maxfun": rule.max_evaluations,
                "maxiter": steps,
            }  # fmt: skip
            found = minimize(
                evaluate, spec.flatten(params).astype(np.float64), jac=True, method="L-BFGS-B", callback=finish,
                options=options,
            )  # fmt: skip
            stopped = str(found.message) if state.step < first + steps else None
    except StopTraining as stop:
        stopped = stop.reason
    finally:
        params[...] = kept
    seconds = time.perf_counter() - began
    return History(np.array(loss, np.float64), np.array(step, np.int64), seconds, state.step - first, stopped=stopped)
