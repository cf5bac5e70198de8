"""Pickles: those of earlier versions load, and none names a file that may move."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import test_files
from test_state import DATA
from tolerance import assert_close

import fastbp
from fastbp import activations, losses, optimizers, schedules


@fastbp.activation(derivative=lambda z: 1 / (1 + abs(z)) ** 2)
def softsign_of_mine(z):
    return z / (1 + abs(z))


@fastbp.loss(derivative=lambda z, t: 4 * (z - t) ** 3)
def fourth_power(z, t):
    return (z - t) ** 4


SCHEDULES = [
    schedules.Step(0.1, every=3), schedules.Exponential(0.1, 0.9), schedules.Warmup(schedules.Cosine(0.1, 9), 3),
    schedules.Piecewise([3, 5], [0.1, 0.2, 0.3]), schedules.ReduceOnPlateau(0.1, patience=2),
    schedules.OneCycle(0.1, 9),
]  # fmt: skip
SIGN = fastbp.Optimizer("sign_sgd", update=[("p", "p - lr * WHERE(g > 0, 1, WHERE(g < 0, -1, 0))")])
LOG_COSH = fastbp.Loss("my_log_cosh", value="ABS(z - t) + LOG1P(EXP(-2 * ABS(z - t)))", settings={"delta": 1.0})

# What a user may keep. `tests/data/<name>.pickle` is each of them, written as the package was at its first layout by
# ``pickle.dumps(made(), 4)``; a file that does not load any more is a user's that does not. The network took its
# rows as they are: orders were others then.
MADE = {
    "network": lambda: test_files.trained(shuffle=False),
    "history": lambda: fastbp.History(np.array([2.0, 1.0]), np.array([3, 6]), 0.5, 6, {"lr": np.ones(2)}, "enough"),
    "optimizers": lambda: [
        *(kind() for kind in optimizers.BY_NAME.values()),
        *(fastbp.SGD(rate, momentum=0.9, clip_norm=1.0) for rate in SCHEDULES),
    ],
    "rows": lambda: [
        *activations.TABLE.values(), *losses.TABLE.values(), *optimizers.TABLE.values(), losses.huber(delta=2.0),
        losses.mse(output_weights=(1.0, 2.0), outputs="sum"),
    ],
    "own_rows": lambda: [
        test_files.MINE, SIGN, LOG_COSH, LOG_COSH(delta=2.0), SIGN(lr=0.5, l1=0.1), softsign_of_mine, fourth_power,
        fourth_power(outputs="sum"),
    ],
    "errors": lambda: [
        fastbp.NonFiniteError("the loss is nan", 3, 1), fastbp.FormatError("no network"),
        fastbp.StopTraining("enough"),
    ],
    "callbacks": lambda: [
        fastbp.EarlyStopping(patience=3), fastbp.Checkpoint("a", every_steps=3), fastbp.TimeLimit(2.0),
    ],
}  # fmt: skip
SINCE = (  # rows of the tables that are not in the file
    "poisson_deviance", "softmax_log_loss", "binary_log_loss", "sgd_velocity", "sgd_velocity_nesterov",
)  # fmt: skip

every_thing = pytest.mark.parametrize("name", MADE)


def told(thing):
    """What a thing is, as values that compare; rows, schedules and optimizers compare themselves."""
    if isinstance(thing, list):
        return [told(one) for one in thing]
    if type(thing).__eq__ is not object.__eq__ and not isinstance(thing, fastbp.History):
        return thing
    return type(thing), repr(vars(thing)), getattr(thing, "args", ())


def written(name):
    return (Path(__file__).parent / "data" / f"{name}.pickle").read_bytes()


@every_thing
def test_a_pickle_of_the_first_layout_loads(name):
    loaded, made = pickle.loads(written(name)), MADE[name]()
    if name == "rows":
        made = [row for row in made if row.name not in SINCE]
    if name != "network":
        assert told(loaded) == told(made)
        return
    assert (loaded.step, loaded.epoch, loaded.seed, loaded.frozen) == (made.step, made.epoch, made.seed, made.frozen)
    for net in (loaded, made):
        net.fit(DATA[:, :3], DATA[:, :2], optimizer=test_files.RULE, steps=5)
    assert_close(loaded.flatten(), made.flatten(), made.dtype)


class Names(pickle.Unpickler):
    """Reads a pickle and notes the modules that it names."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        self.found = set()

    def find_class(self, module, name):
        self.found.add(module)
        return super().find_class(module, name)


def traced():
    return fastbp.MLP((3, 2), seed=0, backend="reference").trace(DATA[:4, :3], DATA[:4, :2], lr=0.1)


def swept():
    return fastbp.sweep({"lr": [0.1, 0.2]}, DATA[:20, :3], DATA[:20, :2], cv=2, epochs=1)


@pytest.mark.parametrize("name", [*MADE, "trace", "sweep"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_names_modules_at_the_top_of_fastbp_alone(name, protocol):
    """Files in folders may move; whoever unpickles would be left without them."""
    names = Names(pickle.dumps((MADE | {"trace": traced, "sweep": swept})[name](), protocol))
    names.load()
    ours = {module for module in names.found if module.partition(".")[0] == "fastbp"}
    assert ours, "nothing of fastbp was pickled"
    assert not {module for module in ours if module.count(".") > 1}
