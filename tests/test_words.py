"""What messages and reprs say to who comes from elsewhere: labels without their loss, names of other libraries."""

from dataclasses import fields
from inspect import signature

import numpy as np
import pytest

import fastbp
from fastbp import SGD, activations, callbacks, initializers, losses, metrics, mlp, optimizers

N, N_IN, N_OUT = 10, 3, 4
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(N, N_IN)), RNG.uniform(size=(N, N_OUT))
LABELS = np.arange(N) % N_OUT
TWO, SIGNS, NUMBERS = np.arange(N) % 2, np.arange(N) % 2 * 2 - 1, RNG.uniform(1.5, 2, N)


def fits(y=Y, **arguments):
    """A call of `fit` on a network with as many outputs as `outputs` says."""
    net = fastbp.MLP((N_IN, arguments.pop("outputs", N_OUT)), seed=0)
    return lambda: net.fit(X, y, **{"steps": 1, "optimizer": "sgd"} | arguments)


# ------------------------------------------------------------------ what is meant by y

MEANT = {  # what: outputs, y, loss, the end of the message
    "labels": (4, LABELS, "mse", r"\(10,\); for labels of classes take loss='softmax_cross_entropy' \(see docs/"),
    "labels as floats": (4, LABELS.astype(float), "mse", r"take loss='softmax_cross_entropy' with y\.astype\(int\) \("),
    "labels as a column": (4, LABELS[:, None], "mse", r"take loss='softmax_cross_entropy' with y\.ravel\(\) \("),
    "a column of whole floats": (4, LABELS[:, None] * 1.0, "mse", r"with y\.ravel\(\)\.astype\(int\) \("),
    "labels from 1 on": (4, LABELS + 1, "mse", r"='softmax_cross_entropy' with np\.unique\(y, return_inverse=True\)\["),
    "truth for two outputs": (2, TWO == 1, "mse", "one output and loss='binary_cross_entropy', or loss="),
    "labels of two classes": (2, TWO, "mse", r"one output and loss='binary_cross_entropy', or loss='softmax.*y' \("),
    "signs for two outputs": (2, SIGNS, "mse", r"take one output and loss='hinge', or .* with np\.unique"),
    "labels for binary_cross_entropy": (4, LABELS, "binary_cross_entropy", "es take loss='softmax_cross_entropy' "),
    "a column of labels": (4, LABELS[:, None], "softmax_cross_entropy", r"; y\.ravel\(\) makes labels of the column$"),
    "one number for each row": (4, NUMBERS, "mse", "; one target for each row needs a network with one output$"),
    "counts": (4, np.arange(N), "mse", "; one target for each row needs a network with one output$"),
    "one number, two outputs each": (4, NUMBERS, "gaussian_nll", "; one target .* a network with two outputs$"),
    "one-hot rows": (1, np.eye(4)[LABELS], "mse", "with 4 outputs, and one-hot .* loss='softmax_cross_entropy'$"),
    "rows for one output": (1, Y, "mse", "; such rows need a network with 4 outputs$"),
    "rows for half as many": (2, Y, "gaussian_nll", "; such rows need a network with 8 outputs$"),
    "a cube": (4, Y[:, :, None], "mse", r"got \(10, 4, 1\)$"),
    "too many columns": (4, np.ones((N, 5)), "mse", r"got \(10, 5\)$"),
    "signs for shares": (1, SIGNS, "binary_cross_entropy", r"from 0 to 1 .*; \(y \+ 1\) / 2 makes 0 and 1 of -1"),
    "0 and 1 for signs": (1, TWO, "hinge", r"-1 or 1 for hinge, .*; 2 \* y - 1 makes -1 and 1 of 0 and 1$"),
    "truth for signs": (1, TWO == 1, "squared_hinge", r"-1 or 1 for .*; 2 \* y - 1 makes -1 and 1 of 0"),
    "1 and 2 for signs": (1, TWO + 1, "hinge", r"-1 or 1 for hinge, got y\[1, 0\] = 2$"),
    "1 and 2 for shares": (1, TWO + 1, "binary_cross_entropy", r"; np\.unique.* makes 0 and 1 of the labels of two"),
    "three classes": (1, np.arange(N) % 3, "binary_cross_entropy", "more than two classes need an output for each "),
    "shares above 1": (1, NUMBERS, "binary_cross_entropy", r"from 0 to 1 for .*, got y\[\d, 0\] = [\d.]+$"),
    "counts below 0": (1, SIGNS, "poisson", r"at least 0 for poisson, got y\[0, 0\] = -1$"),
    "labels from 1 to K": (
        4, LABELS + 1, "softmax_cross_entropy",
        r"0 to 3, .*; classes, y = np\.unique\(y, return_inverse=True\) numbers the classes from 0$"),
    "more classes than outputs": (
        3, np.arange(N) % 5, "softmax_cross_entropy", "; y holds 5 classes, and the network has an output for each of"),
}  # fmt: skip


@pytest.mark.parametrize("outputs, y, loss, message", MEANT.values(), ids=MEANT)
def test_a_message_about_y_says_what_to_do_with_labels_and_columns(outputs, y, loss, message):
    with pytest.raises(ValueError, match=f"^y must .*{message}"):
        fits(y, outputs=outputs, loss=loss)()


LETTERS = np.array(list("abcd"))[LABELS]


@pytest.mark.parametrize(
    "outputs, y, loss",
    [
        (4, LABELS, "softmax_cross_entropy"),
        (4, LABELS[:, None].ravel(), "softmax_cross_entropy"),
        (4, LABELS.astype(float).astype(int), "softmax_cross_entropy"),
        (4, np.eye(4)[LABELS], "softmax_cross_entropy"),
        (4, np.unique(LABELS + 1, return_inverse=True)[1], "softmax_cross_entropy"),
        (4, np.unique(LETTERS, return_inverse=True)[1], "softmax_cross_entropy"),
        (1, (SIGNS + 1) / 2, "binary_cross_entropy"),
        (1, TWO, "binary_cross_entropy"),
        (1, 2 * (TWO == 1) - 1, "hinge"),
        (1, NUMBERS, "mse"),
        (1, TWO, "mse"),  # it is a loss of 0 and 1 too
    ],
)
def test_what_the_messages_advise_trains(outputs, y, loss):
    assert fits(y, outputs=outputs, loss=loss)().n_steps == 1


def test_names_in_any_dress_are_told_how_to_become_labels():
    pandas = pytest.importorskip("pandas")
    names = np.array(["red", "green", "blue", "red"])
    series = pandas.Series(names)
    dresses = names, names.tolist(), names.astype(object), series, series.astype("category"), pandas.Categorical(names)
    net, run = fastbp.MLP((1, 3), seed=0), {"loss": "softmax_cross_entropy", "optimizer": "sgd", "steps": 1}
    for y in (*dresses, series.astype("string"), pandas.Index(names)):
        with pytest.raises(TypeError, match=r"y holds 'red' .*row 0; .*classes, y = np\.unique\(y, return_inv"):
            net.fit(np.ones((4, 1)), y, **run)
        assert net.fit(np.ones((4, 1)), np.unique(y, return_inverse=True)[1], **run).n_steps == 1
    frame = pandas.DataFrame({"size": [1.0, 2, 3, 4], "colour": series.astype("category")})
    with pytest.raises(TypeError, match=r"X holds 'red' .*row 0, column 1 \('colour'\); .*0 and 1 of each category"):
        fastbp.MLP((2, 3)).predict(frame)
    assert fastbp.MLP((4, 3)).predict(pandas.get_dummies(frame)).shape == (4, 3)


# ------------------------------------------------------------------ names of other libraries


class ReLU:
    """As torch has it: an object that is called."""

    def __call__(self, z):
        raise AssertionError("an activation of another library was called")


class Adam:
    """As torch has it: an object with a long repr."""

    def __repr__(self):
        return "Adam (\nParameter Group 0\n    lr: 0.001\n" + "    betas: (0.9, 0.999)\n" * 9


def makes(**arguments):
    return lambda: fastbp.MLP((2, 3, 1), **arguments)


ELSEWHERE = {  # what: call, error, message
    "softmax": (makes(output_activation="softmax"), ValueError, "loss='softmax_cross_entropy' takes logits"),
    "no activation": (makes(output_activation=None), TypeError, "output_activation .*; 'identity' changes nothing"),
    "ReLU()": (makes(activation=ReLU()), TypeError, r"activation .*; did you mean 'relu'\?$"),
    "ReLU": (makes(activation=ReLU), TypeError, r"activation .*; did you mean 'relu'\?$"),
    "'ReLU'": (makes(activation="ReLU"), ValueError, r"'ReLU'; did you mean 'relu'\?"),
    "'Leaky ReLU'": (makes(activation="Leaky ReLU"), ValueError, r"did you mean 'leaky_relu'\?"),
    "'prelu'": (makes(activation="prelu"), ValueError, "; 'leaky_relu' has a fixed slope; none is learnt; known"),
    "xavier": (makes(init="xavier_uniform"), ValueError, r"init: .*did you mean 'glorot_uniform'\?"),
    "a random init": (makes(init="random_normal"), ValueError, "init: .*init=lambda rng, n_in, n_out"),
    "AdamW": (fits(optimizer="AdamW"), ValueError, r"'AdamW'; did you mean 'adamw'\?"),
    "momentum": (fits(optimizer="momentum"), ValueError, r"optimizer: .*fastbp\.SGD\(lr=0\.01, momentum=0\.9\)"),
    "an optimizer of theirs": (
        fits(optimizer=Adam()), TypeError, r"got Adam \( Parameter Group 0 .*\.\.\.; fastbp\.Adam\(lr=\.\.\.\) is the"),
    "a rate for an optimizer": (fits(optimizer=0.1), TypeError, r"got 0\.1; a learning rate .*\.Adam\(lr=0\.1\)$"),
    "acc": (fits(metrics=["acc"]), ValueError, r"metrics: .*'acc'; did you mean 'accuracy'\?"),
    "f1": (fits(metrics=["f1"]), ValueError, r"metrics: .*'f1'; a function \(y_true, y_pred\)"),
    "log_loss": (fits(loss="log_loss"), ValueError, "'softmax_cross_entropy' takes .*'binary_cross_entropy' one"),
    "NLLLoss": (fits(loss="NLLLoss"), ValueError, "'softmax_cross_entropy' takes logits"),
    "rmse": (fits(loss="rmse"), ValueError, r"'mse' has the same minimum, and metrics=\('rmse',\)"),
    "learning_rate": (
        lambda: fastbp.Adam(learning_rate=0.1), TypeError, r"^argument of Adam: .*'learning_rate'; did you mean 'lr'"),
    "hidden_layer_sizes": (lambda: fastbp.MLP(hidden_layer_sizes=9), TypeError, "of MLP: .*; sizes names all layers"),
    "max_iter of a network": (lambda: fastbp.MLP((2, 1), max_iter=9), TypeError, "of MLP: .*an argument of fit"),
    "lr of fit": (
        lambda: fastbp.MLP((2, 1)).fit([[1, 2]], [1], lr=0.1), TypeError, "of fit: .*optimizer=fastbp.Adam.lr=0.01"),
    "n_epochs": (
        lambda: fastbp.MLP((2, 1)).fit([[1, 2]], [1], n_epochs=1), TypeError, "of fit: .*did you mean 'epochs'"),
    "learning_rate_init": (lambda: SGD(learning_rate_init=1), TypeError, r"of SGD: .*; did you mean 'lr'\? known: 'a"),
    "beta_1": (lambda: fastbp.Adam(beta_1=0.9), TypeError, r"; did you mean 'betas'\?"),
    "clipnorm": (lambda: SGD(clipnorm=0.9), TypeError, r"; did you mean 'clip_norm'\?"),
    "RMSprop(rho)": (lambda: fastbp.RMSprop(rho=0.9), TypeError, r"; did you mean 'alpha'\?"),
    "SGD(rho), which has no alpha": (lambda: SGD(rho=0.9), TypeError, "'rho'; known: "),
    "LBFGS(max_iter)": (lambda: fastbp.LBFGS(max_iter=3), TypeError, "epochs= or steps= of fit says how long; known"),
    "a misspelt one": (lambda: fastbp.AdamW(weigth_decay=0.1), TypeError, r"of AdamW: .*; did you mean 'weight_decay'"),
    "a class made from one": (
        lambda: type("Held", (SGD,), {})(learning_rate=1), TypeError, r"of Held: .*; did you mean 'lr'\?"),
    "restore_best_weights": (
        lambda: fastbp.EarlyStopping(restore_best_weights=True), TypeError,
        r"^argument of EarlyStopping: .*; did you mean 'restore_best'\?"),
    "save_best_only": (
        lambda: fastbp.Checkpoint("a", every_steps=1, save_best_only=True), TypeError,
        r"fastbp\.EarlyStopping\(restore_best=True\) keeps the best"),
}  # fmt: skip
LOSSES = {
    "bce": "binary_cross_entropy", "BCEWithLogitsLoss": "binary_cross_entropy", "mse_loss": "mse", "MSELoss": "mse",
    "binary_crossentropy": "binary_cross_entropy", "mean_squared_error": "mse", "squared_error": "mse", "l2": "mse",
    "cross_entropy": "softmax_cross_entropy", "CrossEntropyLoss": "softmax_cross_entropy", "l1": "mae", "L1Loss": "mae",
    "categorical_crossentropy": "softmax_cross_entropy", "sparse_categorical_crossentropy": "softmax_cross_entropy",
    "mean_absolute_error": "mae", "smooth_l1": "huber", "pinball": "quantile", "kl_div": "kl_divergence",
}  # fmt: skip
ELSEWHERE |= {
    f"loss {name}": (fits(loss=name), ValueError, rf"'{name}'; did you mean '{here}'\?")
    for name, here in LOSSES.items()
}


@pytest.mark.parametrize("call, error, message", ELSEWHERE.values(), ids=ELSEWHERE)
def test_names_of_other_libraries_lead_to_those_here(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)


KNOWN = {  # what names there are, and what others call them
    "activations": ((*activations.TABLE, *activations.ALIASES), activations.OTHERS),
    "losses": ((*losses.TABLE, *losses.ALIASES), losses.OTHERS),
    "optimizers": (optimizers.BY_NAME, optimizers.OTHERS),
    "initializers": (initializers.TABLE, initializers.OTHERS),
    "metrics": ((*metrics.TABLE, "top_5"), metrics.OTHERS),
    "hyper-parameters": (
        {field.name for kind in optimizers.BY_NAME.values() for field in fields(kind)}, optimizers.OTHER_ARGUMENTS),
    "callbacks": (
        {name for kind in (fastbp.EarlyStopping, fastbp.Checkpoint) for name in signature(kind).parameters},
        callbacks.OTHER_ARGUMENTS),
    "MLP": (signature(fastbp.MLP).parameters, mlp._OTHER_ARGUMENTS),
    "fit": (signature(fastbp.MLP.fit).parameters, mlp._OTHER_ARGUMENTS_OF_FIT),
}  # fmt: skip


@pytest.mark.parametrize("known, others", KNOWN.values(), ids=KNOWN)
def test_what_others_say_leads_to_a_name_that_there_is(known, others):
    assert [said for said in others if said.isidentifier() and said not in known] == []
    names = [name for these in others.values() for name in these]
    assert sorted(set(names)) == sorted(names)  # one answer to each


def test_a_type_error_from_inside_comes_out_as_it_is():
    """Only what Python says of the call itself is told in other words."""

    class Careless(SGD):
        def __post_init__(self):
            fastbp.schedules.Step(lr=1, evry=3)

    with pytest.raises(TypeError, match=r"Step.__init__\(\) got an unexpected keyword argument 'evry'"):
        Careless(lr=0.1)
    with pytest.raises(TypeError, match="SGD: lr must be a number, got 'x'"):
        SGD(lr="x")
    with pytest.raises(TypeError, match=r"SGD.__init__\(\) takes from 1 to 5 positional arguments but 6 were given"):
        SGD(0.1, 0.9, True, 0.0, 5)


@pytest.mark.parametrize("kind", [*optimizers.BY_NAME.values(), fastbp.EarlyStopping, fastbp.Checkpoint])
def test_a_constructor_says_what_it_takes(kind):
    """It is wrapped, for the sake of its messages."""
    assert set(signature(kind).parameters) & {"lr", "history_size", "monitor", "path"}
    assert not any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature(kind).parameters.values())
    assert kind.__init__.__qualname__ == f"{kind.__name__}.__init__"


# ------------------------------------------------------------------ what is printed

WRITTEN = {  # as it is printed, and as it may be written
    "fastbp.losses.mse": "fastbp.losses.mse",
    "fastbp.losses.huber(delta=2.0)": "fastbp.losses.huber(delta=2)",
    "fastbp.losses.huber": "fastbp.losses.huber(delta=2)(delta=1.0)",
    "fastbp.losses.focal(alpha=0.25, outputs='sum')": "fastbp.losses.focal(outputs='sum', alpha=0.25)",
    "fastbp.losses.mae(output_weights=(1.0, 2.0))": "fastbp.losses.mae(output_weights=[1, 2])",
    "fastbp.Loss(name='own', value='(z - t) * (z - t) * c', grad='2 * (z - t) * c', settings={'c': 1.0})(c=3.0)":
        "fastbp.Loss('own', '(z - t) * (z - t) * c', '2 * (z - t) * c', settings={'c': 1.0})(c=3)",
    "EarlyStopping(monitor='loss', patience=3, min_delta=0.0, restore_best=True, mode='auto')":
        "EarlyStopping('loss', patience=3)",
    "Checkpoint(path='a-{step}', every_steps=5)": "Checkpoint('a-{step}', every_steps=5)",
    "Checkpoint(path='a', every_seconds=0.0)": "Checkpoint('a', every_seconds=0)",
    "TimeLimit(seconds=1.5)": "TimeLimit(1.5)",
}  # fmt: skip


@pytest.mark.parametrize("printed, written", WRITTEN.items())
def test_losses_and_callbacks_print_as_they_are_written(printed, written):
    names = {"fastbp": fastbp} | {name: getattr(fastbp, name) for name in fastbp.__all__}
    thing, again = (eval(text, names) for text in (written, printed))
    assert repr(thing) == repr(again) == printed
    assert again == thing or not isinstance(thing, fastbp.rows.Loss)


@fastbp.loss(derivative=lambda z, t: 2 * (z - t))
def my_squares(z, t):
    return (z - t) * (z - t)


def test_a_loss_of_a_python_function_prints_its_name():
    assert repr(my_squares) == f"{__name__}.my_squares"
    assert repr(my_squares(outputs="sum")) == f"{__name__}.my_squares(outputs='sum')"
