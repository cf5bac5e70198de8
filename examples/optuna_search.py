"""Settings chosen by Optuna: trials in threads, each of which reports its epochs and may be pruned.

The trials learn scikit-learn's handwritten digits. A run of `fit` releases the GIL, so that the threads of
`study.optimize(n_jobs=...)` train at the same time; each run takes one thread. A callback hands the validation loss of
every epoch to Optuna, and ends the run where the trial is to be pruned. Needs optuna and scikit-learn.
"""

import os
import sys
import time

import optuna
from sklearn.datasets import load_digits

import fastbp

X, y = load_digits(return_X_y=True)
X = X / 16
train, held = slice(0, 1300), slice(1300, None)
TRIALS, EPOCHS = 40, 20


class Report(fastbp.Callback):
    """Tells a trial of each epoch, and ends the run where Optuna has seen enough."""

    def __init__(self, trial):
        self.trial = trial

    def on_epoch_end(self, net, logs):
        self.trial.report(logs["val_loss"], net.epoch)
        if self.trial.should_prune():
            raise fastbp.StopTraining("pruned")


def objective(trial):
    width = trial.suggest_int("width", 8, 128, log=True)
    depth = trial.suggest_int("depth", 1, 2)
    activation = trial.suggest_categorical("activation", ["relu", "tanh", "gelu"])
    rule = fastbp.AdamW(
        lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
    )
    net = fastbp.MLP((64, *[width] * depth, 10), activation=activation, seed=0)
    history = net.fit(
        X[train], y[train], loss="softmax_cross_entropy", optimizer=rule, epochs=EPOCHS, batch_size=32,
        validation_data=(X[held], y[held]), metrics=["accuracy"], callbacks=[Report(trial)], n_threads=1,
    )  # fmt: skip
    trial.set_user_attr("accuracy", float(history.metrics["val_accuracy"][-1]))
    if history.stopped == "pruned":
        raise optuna.TrialPruned
    return history.val_loss[-1]


optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(seed=0), pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=2)
)
threads, began = os.cpu_count() or 1, time.perf_counter()
study.optimize(objective, n_trials=TRIALS, n_jobs=threads)
seconds = time.perf_counter() - began

states = [trial.state.name for trial in study.trials]
epochs = sum(len(trial.intermediate_values) for trial in study.trials)
print(f"{len(states)} trials, {states.count('PRUNED')} pruned: {epochs} epochs of {TRIALS * EPOCHS}")
print(f"in {seconds:.1f} s on {threads} thread(s)")
print("best:", ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in study.best_params.items()))  # fmt: skip
print(f"validation loss {study.best_value:.3f}, accuracy {study.best_trial.user_attrs['accuracy']:.1%}")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/optuna_search.py optuna.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for trial in study.trials:
        pruned = trial.state == optuna.trial.TrialState.PRUNED
        colour, name = ("#bbbbbb", "pruned") if pruned else ("#0072B2", "to the end")
        curve = zip(*sorted(trial.intermediate_values.items()))
        axes.plot(*curve, color=colour, lw=1, zorder=1 + (not pruned), label=name)
    values = study.best_trial.intermediate_values
    axes.plot(*zip(*sorted(values.items())), color="#D55E00", lw=2, zorder=3, label="the best")
    lines, names = axes.get_legend_handles_labels()
    handles = dict(zip(names, lines))  # one of each name
    axes.legend(handles.values(), handles.keys(), frameon=False)
    axes.set(xlabel="epoch", ylabel="validation loss", yscale="log", title="Trials that Optuna has chosen and pruned")
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)
