"""Types of what is public, as far as Python itself sees them; tools/typed.py (`make check`) asks type checkers."""

import ast
import importlib
import inspect
import re
import typing
from functools import cached_property
from pathlib import Path

import pytest

import fastbp
from fastbp import activations, backends, initializers, losses, metrics, optimizers, spec
from fastbp import typing as types

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "names, known",
    [
        (types.ActivationName, {*activations.TABLE, *activations.ALIASES}),
        (types.LossName, {*losses.TABLE, *losses.ALIASES}),
        (types.OptimizerName, {*optimizers.BY_NAME}),
        (types.InitName, {*initializers.TABLE}),
        (types.BiasInitName, {*initializers.BIASES}),
        (types.BackendName, {"auto", *backends.NAMES}),
        (types.LinkName, {*losses.LINKS}),
        (types.MatmulPrecision, {*spec.MATMUL_PRECISIONS}),
    ],
    ids=["activations", "losses", "optimizers", "initializers", "initializers of biases", "backends", "links",
         "precisions"],
)
def test_the_names_of_a_type_are_those_of_the_table(names, known):
    listed = typing.get_args(names)
    assert set(listed) == known and len(listed) == len(known)


def test_the_names_of_metrics_are_those_of_the_table_and_some_top_k():
    listed = set(typing.get_args(types.MetricName))
    assert listed >= set(metrics.TABLE)
    assert all(re.fullmatch(r"top_[1-9]\d*", name) for name in listed - set(metrics.TABLE))


def annotated(path):
    """The names that a file only annotates, or imports, for type checkers: (name, module that has it or None)."""
    for block in ast.parse(path.read_text()).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) in ("TYPE_CHECKING", "_typing.TYPE_CHECKING"):
            for node in block.body:
                if isinstance(node, ast.AnnAssign):
                    yield node.target.id, None
                elif isinstance(node, ast.ImportFrom):
                    yield from ((alias.name, node.module) for alias in node.names)


def test_type_checkers_see_the_losses_of_the_table():
    seen = [name for name, module in annotated(ROOT / "fastbp" / "losses.py") if module is None]
    assert sorted(seen) == sorted(losses.TABLE)


def test_type_checkers_see_what_loads_on_first_use():
    seen = dict(annotated(ROOT / "fastbp" / "__init__.py"))
    for name, module in seen.items():
        if module == "fastbp":
            assert getattr(fastbp, name) is importlib.import_module(f"fastbp.{name}")
        elif module is not None:
            assert getattr(fastbp, name) is getattr(importlib.import_module(module), name)
    later = re.findall(r'"(\w+)"', "".join(re.findall(r"^ +case (.*):$", inspect.getsource(fastbp), re.M)))
    assert sorted(later) == sorted(seen)


def public_classes():
    for name in fastbp.__all__:
        thing = getattr(fastbp, name)
        inner = vars(thing).values() if inspect.ismodule(thing) else [thing]
        for found in inner:
            own = inspect.isclass(found) and found.__module__.startswith("fastbp") and found.__name__[0] != "_"
            if own and found.__module__ != "fastbp.typing":  # whose protocols are types alone
                yield found


CLASSES = sorted(set(public_classes()), key=lambda kind: (kind.__module__, kind.__qualname__))


def members(kind):
    """(name, function) of the public methods and properties that a class defines."""
    for name, member in vars(kind).items():
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function, isinstance(member, (property, cached_property))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_property_has_a_docstring_and_a_type(kind):
    for name, function, is_property in members(kind):
        if is_property:
            assert function.__name__ != "<lambda>" and function.__annotations__.get("return") not in (None, "Any"), name
            overridden = any(hasattr(base, name) for base in kind.__mro__[1:])
            assert inspect.getdoc(function) or overridden, f"{kind.__qualname__}.{name} has no docstring"


def untyped(function):
    """The parameters of a function without a type, or with one that says nothing; "return" for its result."""
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.annotation for p in parameters if p.name not in ("self", "cls")}
    given["return"] = inspect.signature(function).return_annotation
    return [name for name, annotation in given.items() if annotation in (inspect.Signature.empty, "Any")]


def public_functions():
    for kind in CLASSES:
        if kind.__module__ in ("fastbp.mlp", "fastbp.callbacks", "fastbp.history", "fastbp.gradients"):
            yield from ((f"{kind.__name__}.{name}", f) for name, f, _ in members(kind))
            if "__init__" in vars(kind):
                yield kind.__name__, kind.__init__
    for name in (*metrics.TABLE, "top_k"):
        yield f"metrics.{name}", getattr(metrics, name)
    for thing in (fastbp.ops, fastbp.plot):
        functions = inspect.getmembers(thing, inspect.isfunction)
        yield from ((name, f) for name, f in functions if f.__module__ == thing.__name__ and name[0] != "_")
    for name in ("load", "check_gradients", "backend", "set_backend", "activation", "loss", "show_config"):
        yield name, getattr(fastbp, name)


@pytest.mark.parametrize("name, function", [pytest.param(n, f, id=n) for n, f in public_functions()])
def test_every_argument_of_a_verb_has_a_type(name, function):
    assert untyped(function) == []
