"""What was asked for each network of `fit_many`, checked before any work."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import checks, spec
from fastbp.arrays import is_sparse, is_stored, real_array, shown
from fastbp.backends import plan
from fastbp.callbacks import EarlyStopping
from fastbp.data import arguments
from fastbp.data.examples import Examples, examples_of
from fastbp.data.samples import Samples
from fastbp.errors import instance_hint
from fastbp.many.given import Apart, Networks, Source, group, has_each, indices, without
from fastbp.optimizers import LBFGS, Rule
from fastbp.training.watch import Part, make_watch, measured_on

if TYPE_CHECKING:
    from fastbp.backends.protocol import Plan
    from fastbp.mlp import MLP
    from fastbp.rows import Loss
    from fastbp.training.watch import Watch


@dataclass(slots=True, eq=False)
class Work:
    """What was asked for a network, but for its rows, its seed and its rule; one object for all that ask for the same.

    Their rules are of one `Rule.likeness`: what is checked of one of them, and follows from it, holds for all.
    """

    source: Source
    held: np.ndarray | None  # numbers of the rows to measure on
    weight: Any  # sample_weight of its own
    validation: Source | None
    loss: Loss
    rule: Rule | LBFGS  # of one of them
    batch_size: Any
    epochs: Any
    steps: Any
    early: EarlyStopping | None
    shared: Examples | None = None  # what it is trained on, if others are too
    is_simple: bool = False  # rows of its own and nothing else: little is to be checked, and nothing to be made
    is_plain: bool = False  # the rows are arrays, with weights of whole rows
    n_rows: int = 0
    batch: int = 0  # rows of one, at most n_rows
    n_steps: int = 0
    cost: float = 0.0  # in multiplications of all steps, more or less
    kind: Any = None  # of the cohorts that it may be in, see `fastbp.many.cohorts`
    alike: int = 0  # the number of its rule's likeness
    plan: Plan | None = None  # of its steps by one thread; L-BFGS makes none


@dataclass(slots=True, eq=False)
class Member:
    """A network, and all that was asked for it, checked."""

    net: MLP
    rows: np.ndarray | None  # numbers of those trained on; None: all
    seed: int
    rule: Rule | LBFGS
    work: Work


_MOST_STEPS = 1 << 61  # more than any run has, and what is counted up from it fits 64 bits


class Asked:
    """What a call of `fit_many` asks for: of all networks, and of each as a `Member`."""

    def __init__(
        self, given: Networks, shuffle: Any, class_weight: Any, validation_split: Any, missing: Any, metrics: Any,
        eval_every: Any, nonfinite: Any,
    ) -> None:  # fmt: skip
        self.given = given
        self.shuffle = checks.boolean("shuffle", shuffle)
        self.class_weight = class_weight
        self.split = validation_split
        self.missing = checks.choice("missing", missing, ("raise", "ignore"))
        self.metrics = metrics
        every = checks.optional_integer("eval_every", eval_every, 1)
        self.eval_every = None if every is None else min(every, _MOST_STEPS)
        self.stop = checks.choice("nonfinite", nonfinite, ("stop", "ignore")) == "stop"
        self.split_seed = 0
        self.keys = given.keys
        self._apart = Apart(given.nets)
        self._examples: dict[Any, Examples] = {}  # of members that share their rows
        self._works: dict[Any, Work] = {}
        self._alike: dict[Any, int] = {}  # numbers of likenesses
        self._plans: dict[Any, Plan] = {}
        self._wanted: dict[str, plan.Asked] = {}  # of plans, by the network's backend
        self.served: dict[int, bool] = {}  # by the id of a plan: whether there are lanes for it
        self._parts: dict[int, list[Part]] = {}  # of shared examples, by their id
        self.sign_of: dict[tuple[str, str], int] = {}  # 1 where more is better: of what is monitored, and the mode

    def settings(self) -> dict[str, Any]:
        """What was asked for all networks, for `of_settings` in another process."""
        named = "shuffle", "class_weight", "split", "missing", "metrics", "eval_every", "stop", "split_seed"
        return {name: getattr(self, name) for name in (*named, "sign_of", "_one_set")}

    @classmethod
    def of_settings(cls, given: Networks, settings: dict[str, Any]) -> Asked:
        """The same for these networks, whose members were checked before."""
        made = cls(given, True, None, None, "raise", (), None, "stop")
        made.__dict__.update(settings)
        return made

    def parted(self, members: list[Member]) -> bool:
        """Whether each network needs its own of rows that were given once, all together no more than there are."""
        source = members[0].work.source
        if not source.is_for_all or self._one_set or any(samples.is_lazy for samples in source.known()):
            return False
        if any(member.rows is None for member in members):
            return False
        rows = (one for member in members for one in (member.rows, member.work.held) if one is not None)
        return sum(map(len, rows)) <= source.n_rows

    def forget(self) -> None:
        """Let go of what is known: sources know this object, and were a circle that keeps the rows."""
        for known in (self._works, self._examples, self._parts):
            known.clear()

    def members_of(
        self, X: Any, y: Any, by: Any, rows: Any, loss: Any, optimizer: Any, batch_size: Any, epochs: Any, steps: Any,
        seed: Any, sample_weight: Any, validation_data: Any, validation_rows: Any, early_stopping: Any,
    ) -> list[Member]:  # fmt: skip
        """The members, checked."""
        given, n_nets = self.given, len(self.given)
        seeds = given.one_or_each("seed", seed)
        if seed is not None and all(one is seed for one in seeds):
            self.split_seed = checks.seed(seed)
            seeds = [self.split_seed] * n_nets
        is_array = isinstance(sample_weight, np.ndarray)  # for all, of targets (n, outputs) too
        own_weights = not is_array and has_each(sample_weight, 1)
        weights = given.each("sample_weight", sample_weight) if own_weights else [None] * n_nets
        sources = self._sources(X, y, None if own_weights else sample_weight)
        rows, held = self._rows_of(sources, by, rows, validation_rows)
        validation = self._validation(validation_data)
        columns = [sources, held, weights, validation]
        columns += [given.one_or_each(name, value) for name, value in (
            ("loss", loss), ("optimizer", optimizer), ("batch_size", batch_size), ("epochs", epochs), ("steps", steps),
            ("early_stopping", early_stopping),
        )]  # fmt: skip
        members, rules, known = [], columns[5], self._works
        for k, (net, of_net, seed, rule, what) in enumerate(
            zip(given.nets, rows, seeds, rules, self._told_apart(rows, columns), strict=True)
        ):
            try:
                seed = net._state.seed if seed is None else checks.seed(seed)
                work = known.get(what)
                if work is None:
                    work = Work(*(column[k] for column in columns))
                    self._check(net, of_net, work)
                    if work.is_simple or work.shared is not None:
                        known[what] = work
                members.append(Member(net, of_net, seed, work.rule if isinstance(rule, str) else rule, work))
            except (TypeError, ValueError, RuntimeError, ImportError) as error:
                kinds = (TypeError, ValueError, RuntimeError, ImportError)
                kind = next(kind for kind in kinds if isinstance(error, kind))
                raise kind(f"{given.name(k)}: {error}") from None
        return members

    def _sources(self, X: Any, y: Any, weight: Any) -> list[Source]:
        """Of each network; one for all where X, y are for all."""
        if X is None or y is None or hasattr(X, "__next__"):
            raise TypeError("fit_many trains on arrays X and y, got an iterator or None; `MLP.fit` takes batches")
        if has_each(X, 2):
            if weight is not None:
                raise ValueError("sample_weight: X is a list with the rows of each network; give a list of weights")
            pairs = zip(self.given.each("X", X), self.given.each("y", y))
            return [Source(partial(self._check_rows, *pair, None), _length(f"X of {self.given.name(k)}", pair[0]))
                    for k, pair in enumerate(pairs)]  # fmt: skip
        X = X if is_sparse(X) or is_stored(X) else real_array("X", X)  # once for all kinds of networks
        source = Source(partial(self._check_rows, X, real_array("y", y), weight), _length("X", X))
        source.is_for_all = True
        return [source] * len(self.given)

    def _check_rows(self, X: Any, y: Any, weight: Any, loss: Loss, network: spec.Spec) -> Samples:
        X = arguments.features(X, network, lazy=True)
        found = arguments.samples(X, y, weight, loss, network, missing=self.missing)
        return Samples(*map(self._apart, found))

    def _validation(self, value: Any) -> list[Source | None]:
        if value is None:
            return [None] * len(self.given)

        def check(value: Any, loss: Loss, network: spec.Spec) -> Samples:
            return Samples(*map(self._apart, arguments.validation(value, loss, network, self.missing)))

        if isinstance(value, (list, Mapping)):
            each = self.given.each("validation_data", value)
            return [None if one is None else Source(partial(check, one)) for one in each]
        source = Source(partial(check, value))
        source.is_for_all = True
        return [source] * len(self.given)

    def _rows_of(self, sources: list[Source], by: Any, rows: Any, held: Any) -> tuple[list[Any], list[Any]]:
        """Numbers of the rows that each network is trained on, and of those that it is measured on."""
        given, n = self.given, [source.n_rows for source in sources]
        one_set = all(source is sources[0] for source in sources)
        own_held = has_each(held, 1)
        self._one_set = one_set and by is None and rows is None and not own_held
        found: list[Any] = [None] * len(given)
        if by is not None:
            if rows is not None:
                raise ValueError("give at most one of by and rows")
            if not one_set:
                raise ValueError("by: X is a list with the rows of each network, which leaves nothing to part")
            self.keys, found = group(by, n[0], given)
        elif rows is not None:
            named = zip(range(len(given)), given.each("rows", rows), n)
            found = [indices(f"rows of {given.name(k)}", one, n) for k, one, n in named]
        if held is None:
            return found, [None] * len(given)
        if own_held:
            named = zip(range(len(given)), given.each("validation_rows", held), n)
            wanted = [indices(f"validation_rows of {given.name(k)}", one, n) for k, one, n in named]
        elif one_set:
            wanted = [indices("validation_rows", held, n[0])] * len(given)
        else:
            raise ValueError("validation_rows: X is a list with the rows of each network; give a list of indices")
        if rows is not None:
            return found, wanted
        if self._one_set:
            parted = [without(None, wanted[0], n[0])] * len(given)
        else:
            parted = [without(among, out, n) for among, out, n in zip(found, wanted, n)]
        for k, (left, out) in enumerate(parted):
            if not len(left) or not len(out) and not own_held:
                what = "leaves nothing to train on" if len(out) else "holds no row"
                raise ValueError(f"validation_rows {what} of {given.name(k)}")
        return [left for left, _ in parted], wanted if own_held else [out for _, out in parted]

    def _told_apart(self, rows: list[Any], columns: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
        """For each network what tells its `Work` from others, whose fields `columns` are: equal where it is the same.

        Objects are known by their ids as long as the call holds them. What all have in common is left out.
        """
        nets = self.given.nets
        self._held = [net._trains for net in nets]
        parts = [[id(net._spec) for net in nets], _ids(self._held) or [], [net._backend for net in nets]]
        parts.append([] if self._one_set else [None if one is None else len(one) for one in rows])
        for column, apart in zip(columns, (*[id] * 5, _likeness, *[_number] * 3, id), strict=True):
            ids = _ids(column)
            parts.append([] if ids is None else ids if apart is id else list(map(apart, column)))
        return zip(*filter(None, parts))

    def _check(self, net: MLP, rows: np.ndarray | None, work: Work) -> None:
        """Make sure that what was asked for suits the network, and complete it."""
        network = net._spec
        work.loss = spec.loss(work.loss, network)
        if work.rule == "lbfgs" or isinstance(work.rule, LBFGS):
            work.batch_size = sys.maxsize
        if not isinstance(work.early, (EarlyStopping, type(None))):
            raise TypeError("early_stopping must be a fastbp.EarlyStopping or None, as in "
                            "fastbp.EarlyStopping(patience=10), with validation_split=0.2; got "
                            f"{work.early!r}{instance_hint(work.early, EarlyStopping)}")  # fmt: skip
        own = rows is not None and not self._one_set
        work.alike = self._alike.setdefault(_likeness(work.rule), len(self._alike))
        more = work.held, work.weight, work.validation, work.early, self.split, self.class_weight, self.eval_every
        samples = work.source(work.loss, network)
        work.is_simple = own and all(one is None for one in more) and not self.metrics and samples.weight is None
        if work.is_simple:
            work.is_plain, work.n_rows = not samples.is_lazy, len(rows)
            work.batch = min(checks.integer("batch_size", work.batch_size, 1), work.n_rows)
            work.n_steps = min(checks.run_length(work.epochs, work.steps, -(-work.n_rows // work.batch)), _MOST_STEPS)
        else:
            self._check_examples(Member(net, rows, 0, work.rule, work))
        work.rule = spec.optimizer(work.rule, network, work.n_rows, work.batch)
        if isinstance(work.rule, LBFGS):
            waits = work.held, work.validation, work.early, self.split
            net._check_lbfgs(bool(self.metrics) or any(one is not None for one in waits))
        else:
            work.plan = self._plan_of(net, work)  # its backend may not be there
        work.cost = float(work.n_steps) * work.batch * network.n_params

    def _plan_of(self, net: MLP, work: Work) -> Plan:
        """The plan of a network's steps; of those that have the same it is made once."""
        rule: Any = work.rule
        what = (net._spec, net._backend, net._trains, work.loss, rule.row, rule.is_plain,
                rule.needs_whole_gradient, work.batch)  # fmt: skip
        made = self._plans.get(what)
        if made is None:
            wanted = self._wanted.get(net._backend)
            if wanted is None:
                wanted = self._wanted[net._backend] = plan.asked(net._backend, n_threads=1)
            made = self._plans[what] = net._plan(work.batch, loss=work.loss, rule=rule, wanted=wanted)
        return made

    def _check_examples(self, member: Member) -> None:
        """Rows, batches, steps, and what waits meanwhile."""
        work = member.work
        examples = self.examples_of(member)
        self.watch(member, examples)  # which checks what waits
        if work.early is not None:
            _, better = measured_on(member.net.sizes[-1], examples, work.loss, self.metrics, self.eval_every)
            early = copy.copy(work.early)
            early.check(better)
            self.sign_of[early.monitor, early.mode] = early._sign
        parts = [Samples(*examples.rows), *([] if examples.validation is None else [examples.validation])]
        work.is_plain = not any(part.is_lazy or (part.weight is not None and part.weight.ndim > 1) for part in parts)
        work.n_rows, work.batch, work.n_steps = len(parts[0].X), examples.batch_size, min(examples.steps, _MOST_STEPS)

    def lane_rows(self, member: Member) -> tuple[tuple[Any, ...], Examples | None, list[Part]]:
        """X, y, weight, and numbers of the rows among them, to train on; all of it; what is measured at each entry."""
        work, network = member.work, member.net._spec
        if work.is_simple:
            return (*work.source(work.loss, network), member.rows), None, []
        examples = self.examples_of(member)
        parts = self._parts.get(id(examples)) if work.shared is not None else None
        if parts is None:
            parts, _ = measured_on(network.out_features, examples, work.loss, self.metrics, self.eval_every)
            if work.shared is not None:
                self._parts[id(examples)] = parts  # the same object for all, who are measured together
        return (*examples.rows, None), examples, parts

    def examples_of(self, member: Member) -> Examples:
        """What a member is trained on."""
        work = member.work
        if work.shared is not None:
            return work.shared
        network, loss = member.net._spec, work.loss
        rows = work.source(loss, network)
        validation = None if work.validation is None else work.validation(loss, network)
        kind = None
        if work.weight is None and self._one_set:
            given = map(id, (work.source, member.rows, work.held, work.validation))
            lengths = map(_number, (work.batch_size, work.epochs, work.steps))
            kind = *given, network.in_features, network.out_features, network.dtype, loss, *lengths
            known = self._examples.get(kind)
            if known is not None:
                work.shared = known
                return known
        if work.held is not None:
            if validation is not None:
                raise ValueError("give at most one of validation_data and validation_rows")
            validation = rows.picked(work.held)
            if validation.weight is not None and not validation.weight.any():
                raise ValueError("validation_rows: sample_weight is zero for every one of them")
        if member.rows is not None:
            rows = rows.picked(member.rows)
            if rows.weight is not None and not rows.weight.any():
                raise ValueError("sample_weight is zero for every row that is trained on")
        if work.weight is not None:
            rows = arguments.samples(rows.X, rows.y, work.weight, loss, network, missing=self.missing)
        made = examples_of(
            network, loss, rows, self.class_weight, validation, self.split,
            batch_size=checks.integer("batch_size", work.batch_size, 1), epochs=work.epochs, steps=work.steps,
            shuffle=self.shuffle, seed=self.split_seed,
        )  # fmt: skip
        if member.rows is not None:  # errors are to name rows of the caller's X
            inside, outside = made.inside, made.outside
            inside = member.rows if inside is None else member.rows[inside]
            outside = work.held if outside is None else member.rows[outside]
            made = made._replace(inside=work.source.named(inside), outside=work.source.named(outside))
        if kind is not None:
            work.shared = self._examples[kind] = made
        return made

    def _waits(self, work: Work, examples: Examples) -> bool:
        """Whether anything waits during a run, or may be wrong about that."""
        waits = work.early, examples.validation, self.eval_every
        return not (isinstance(self.metrics, tuple) and not self.metrics) or any(one is not None for one in waits)

    def watch(
        self, member: Member, examples: Examples, early: EarlyStopping | None = None, n_threads: int = 1
    ) -> Watch | None:
        """What waits during the run of a member, whose own early stopping is only read; `early` is a copy of it.

        To make it is to see that all of it is in order.
        """
        net = member.net
        if not self._waits(member.work, examples):
            return None
        early = early or copy.copy(member.work.early)
        callbacks = () if early is None else (early,)
        evaluate = partial(net._evaluate, loss=member.work.loss, n_threads=n_threads)
        return make_watch(
            net, examples, member.work.loss, evaluate, self.metrics, callbacks, False, 0, self.eval_every, self.stop
        )


def _ids(column: list[Any]) -> list[int] | None:
    """The ids of objects, or None where all are one."""
    ids = list(map(id, column))
    return None if ids.count(ids[0]) == len(ids) else ids


def _number(value: Any) -> Any:
    """A number by itself, unless it may be equal to one that is no number: True and 1.0 are equal to 1."""
    return value if type(value) is int or value is None else (id(value),)


def _likeness(rule: Any) -> Any:
    """A rule as what it has in common with others, and anything else by itself."""
    return rule.likeness if isinstance(rule, Rule) else rule if type(rule) is str else id(rule)


def _length(argument: str, X: Any) -> int:
    """Rows of X, which is not checked yet."""
    shape = getattr(X, "shape", None)
    try:
        return int(shape[0]) if isinstance(shape, tuple) and shape else len(X)
    except TypeError:
        raise TypeError(f"{argument} must be an array of rows, (n, in_features), got {shown(X)}") from None
