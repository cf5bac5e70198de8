# Calls that are like earlier ones. Included by engine.pyx.
#
# The checks of a small call take ten times as long as its kernel. What a call needs (its loss as a row, its optimizer as
# an `Update`, programs) is found here by what the caller named, among the calls that were checked in full before. What
# the caller may change between two calls is looked at each time: the arrays, what is forced from outside, what other
# verbs have made of the training state. Whatever else comes gives None, having done nothing, and goes the long way, which
# does it or says what is wrong. `fastbp/backends/again.py` says what may be remembered.

cdef idx MOST_KINDS = 16                # of calls that are remembered; the one met first is dropped
cdef idx MOST_FORESEEN = 256            # steps whose scalars are held ready
cdef idx BLOCK_ROWS = 256               # as in fastbp/backends/plan.py
cdef double LEAST_WEIGHT = 2.0 ** -900, MOST_WEIGHT = 2.0 ** 900   # beyond, `fastbp.data.arguments.product` takes care
cdef double SUM_TOLERANCE = 1e-6        # of rows of probabilities; the long way grants a bit more


# ------------------------------------------------------------------ what is forced

cdef class Forced:
    """What is forced on every network at present (see `fastbp.backends.config`), and whether it is the same later."""

    cdef object context, context_value
    cdef list process
    cdef object process_value
    cdef uint64_t environment
    cdef int threads

    def __cinit__(self, context, list process):
        self.context, self.context_value = context, context.get()
        self.process, self.process_value = process, process[0]
        self.environment, self.threads = c_environment_stamp(), c_thread_limit()

    cdef bint still(self) except -1:
        return (value_of(self.context) is self.context_value and self.process[0] is self.process_value
                and self.environment == c_environment_stamp() and self.threads == c_thread_limit())


# ------------------------------------------------------------------ the caller's arrays

cdef cnp.ndarray as_real(value):
    """An array of NumPy's own real numbers as it is, a list of Python's numbers as an array; anything else: None."""
    cdef cnp.ndarray array
    cdef int number
    if type(value) is cnp.ndarray:
        array = <cnp.ndarray> value
    elif type(value) is list and is_of_numbers(value):
        try:
            array = np.asarray(value)
        except ValueError:              # of rows of several lengths
            return None
    else:
        return None
    number = cnp.PyArray_TYPE(array)
    return array if number <= cnp.NPY_LONGDOUBLE or number == cnp.NPY_FLOAT16 else None


cdef bint is_of_numbers(list value):
    """Whether the first number is one of Python's; the others show in the dtype."""
    if not value:
        return False
    first = value[0]
    if type(first) is list and first:
        first = (<list> first)[0]
    return type(first) is float or type(first) is int


cdef bint is_matrix(cnp.ndarray a, idx rows, idx cols):
    """rows -1: any, but one at least"""
    return (a is not None and cnp.PyArray_NDIM(a) == 2 and cnp.PyArray_DIM(a, 1) == cols
            and (cnp.PyArray_DIM(a, 0) == rows if rows >= 0 else cnp.PyArray_DIM(a, 0) > 0))


cdef bint overlap(cnp.ndarray a, cnp.ndarray params):
    """Whether the bytes from the first to the last of `a` reach into the parameters."""
    cdef char* low = <char*> data_of(a)
    cdef char* high = low + cnp.PyArray_ITEMSIZE(a)
    cdef char* start = <char*> data_of(params)
    cdef idx reach
    for axis in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, axis) - 1) * cnp.PyArray_STRIDE(a, axis)
        if reach < 0:
            low += reach
        else:
            high += reach
    return low < start + cnp.PyArray_NBYTES(params) and start < high


cdef inline void put(char* to, idx size, double value) noexcept nogil:
    """A number of float32 or float64."""
    if size == 4:
        (<float*> to)[0] = <float> value
    else:
        (<double*> to)[0] = value


cdef Source rows_of(const Source& all_rows, idx start, idx count) noexcept nogil:
    cdef Source some = all_rows
    some.data += start * some.row_stride
    some.rows = count
    return some


cdef weights_of(value, idx rows, idx targets):
    """Weights that need no care, as float64, contiguous; None where there are none; False: others.

    (rows,), or where a row has so many targets (rows, targets), unless each row has one weight. 0: it may have none.
    """
    cdef cnp.ndarray weight
    cdef const double* w
    cdef double total = 0
    cdef bint even = True
    cdef idx m, k, n = 1
    if value is None:
        return None
    weight = as_real(value)
    if weight is None or cnp.PyArray_NDIM(weight) == 0 or cnp.PyArray_DIM(weight, 0) != rows:
        return False
    if cnp.PyArray_NDIM(weight) > 1:
        if not targets or not is_matrix(weight, rows, targets):
            return False
        n = targets
    if cnp.PyArray_TYPE(weight) != cnp.NPY_FLOAT64 or not cnp.PyArray_ISCARRAY_RO(weight):
        weight = np.ascontiguousarray(weight, np.float64)
    w = <const double*> data_of(weight)
    for m in range(0, rows * n, n):
        for k in range(m, m + n):
            if not (w[k] == 0 or LEAST_WEIGHT <= w[k] <= MOST_WEIGHT):
                return False
            total += w[k]
            even = even and w[k] == w[m]
    if not 0 < total <= MOST_WEIGHT:
        return False
    return weight[:, 0].copy() if even and cnp.PyArray_NDIM(weight) > 1 else weight


cdef known_only(cnp.ndarray y, cnp.ndarray weight):
    """The weights, with 0 for each target that is NaN; as `fastbp.data.arguments.samples` has it."""
    missing = np.isnan(y) if cnp.PyArray_NDIM(y) == 2 else np.isnan(y)[:, None]
    if not missing.any():
        return weight
    known = 1.0 if weight is None else weight if cnp.PyArray_NDIM(weight) == 2 else weight[:, None]
    return np.ascontiguousarray(np.where(missing, 0.0, known))   # `where` lays out its result as y


cdef bint is_same(a, b) except -1:
    """Whether two names, rows or optimizers are one."""
    return a is b or (type(a) is type(b) and a == b)


# ------------------------------------------------------------------ what a call needs

cdef class KnownLoss:
    """A loss as callers name it, what its targets may be, and programs that compute it for so many rows."""

    cdef object loss, row
    cdef bint labels, ends, pointwise
    cdef idx cols
    cdef double low, high               # with `ends`: the two alone
    cdef idx capacity
    cdef list idle

    def __cinit__(self, loss, row, bint labels, idx cols, double low, double high, bint ends):
        self.loss, self.row, self.labels, self.cols = loss, row, labels, cols
        self.low, self.high, self.ends, self.pointwise = low, high, ends, row.is_pointwise
        self.capacity = 0

    cdef bint fits(self, cnp.ndarray y, idx rows, bint may_miss, Source* source, cbool* is_label) except -1:
        """Whether these are targets of so many rows, with nothing wrong; NaN only where some may be missing."""
        cdef int axes
        if y is None:
            return False
        axes = cnp.PyArray_NDIM(y)
        if axes == 0 or axes > 2 or cnp.PyArray_DIM(y, 0) != rows:
            return False
        source[0] = source_of(y)
        is_label[0] = self.labels and axes == 1
        if is_label[0]:
            return source.kind != c'f' and within(source[0], 0, self.cols - 1, False, False)
        if source.cols != self.cols or not within(source[0], self.low, self.high, self.ends, may_miss):
            return False
        return not self.labels or rows_sum_to_one(source[0], SUM_TOLERANCE)


cdef class KnownRule:
    """An optimizer as callers name it, and the update that its next step makes.

    Scalars are held ready for some steps ahead: the one of the step at hand is found by the updates and batches counted
    since the slots were made, and where there is a schedule by the step too.
    """

    cdef object optimizer, rule
    cdef bint steady, scheduled, averages, clips, of_all_rows
    cdef idx accumulate
    cdef object given                   # what `update` points into
    cdef object family, slots, average, accumulated
    cdef Update update
    cdef idx position, step, length     # what the first scalars are of, and how many there are
    cdef idx at                         # where the update points

    def __cinit__(self, optimizer, rule, idx accumulate, bint steady, bint scheduled):
        self.optimizer, self.rule, self.accumulate = optimizer, rule, accumulate
        self.steady, self.scheduled = steady, scheduled
        self.averages, self.clips = rule.average is not None, rule.clip_norm is not None
        self.of_all_rows = rule.full_batch
        self.length = 0

    cdef bint is_ready(self, state, idx step, idx steps=1) except -1:
        """Whether the update was made from the state as it is, for so many steps; it is moved to this step."""
        cdef idx position, at, delta
        cdef size_t k
        if self.given is None or state.slots is not self.slots or state.accumulate != self.accumulate:
            return False
        if self.averages and state.average is not self.average:
            return False
        if self.accumulate > 1 and state.accumulated is not self.accumulated:
            return False
        if self.steady and self.accumulate == 1:
            return True
        position = <idx> state.updates * self.accumulate + step - <idx> state.since
        at = position - self.position
        if not self.steady and not 0 <= at <= self.length - steps:
            return False
        if self.scheduled and step - self.step != at:
            return False
        delta, self.at = at - self.at, at
        for k in range(self.update.scalars.size()):
            self.update.scalars[k].data += delta * self.update.scalars[k].stride
        self.update.phase = position % self.accumulate
        return True

    cdef bint enters_again(self, state, idx step, idx steps) except -1:
        """Whether the state, which has another family's slots, could be given those made before, at zero again."""
        if (self.given is None or state.family == self.family or self.averages
                or len(self.slots) != len(self.given.slots)   # others of the family had more
                or self.accumulate != 1 or state.accumulate != 1
                or not self.steady and (self.position or self.scheduled)):
            return False
        for slot in self.given.slots:
            memset(data_of(slot), 0, cnp.PyArray_NBYTES(slot))
        state.family, state.slots, state.updates, state.since = self.family, self.slots, 0, step
        return self.is_ready(state, step, steps)

    cdef int make_ready(self, state, idx step, Program program, idx steps=1) except -1:
        """Make the update from the state, which enters the optimizer's family of slots; as the long way does."""
        cdef idx length = steps
        if self.enters_again(state, step, steps):
            return 0
        if self.given is not None and state.slots is self.slots and not self.steady:   # it was at its end
            length = max(steps, min(2 * self.length, MOST_FORESEEN))
        self.given = None
        given = state.update(self.rule, length, program.params, accumulate=self.accumulate)
        self.update = program.update_of(given)
        self.family, self.slots = state.family, state.slots
        self.average, self.accumulated = state.average, state.accumulated
        self.position = <idx> state.updates * self.accumulate + step - <idx> state.since
        self.step, self.length, self.at = step, length, 0
        self.given = given
        return 0


cdef class KnownStep:
    """A loss with an optimizer, and programs that train with them."""

    cdef KnownLoss loss
    cdef KnownRule rule
    cdef idx capacity
    cdef list idle

    def __cinit__(self, KnownLoss loss, KnownRule rule):
        self.loss, self.rule, self.capacity = loss, rule, 0


cdef class Ahead:
    """Programs that go forward, for so many rows, and the width of what they give."""

    cdef idx width, capacity
    cdef list idle

    def __cinit__(self, idx width):
        self.width, self.capacity = width, 0


cdef int remember(list table, known) except -1:
    """At the front, where it is found first."""
    table.insert(0, known)
    if len(table) > MOST_KINDS:
        table.pop()
    return 0


# ------------------------------------------------------------------ the calls of one network

cdef class Calls:
    """The verbs of one network for calls like earlier ones: each gives None where the long way is to be taken.

    A program is out of its list while it works, and goes back into that list: another thread may remember larger ones
    meanwhile. What trains holds the network's lock, which is taken here: between two bytecodes of Python a signal may
    come in, and leave it taken.
    """

    cdef Forced forced
    cdef object programs, state, lock, make_buffer, room_for, give_back
    cdef list pending                   # (program, rows) of the last `forward`
    cdef cnp.ndarray params, count
    cdef list places                    # (offset, rows, columns, leading dimension, transposed) of weights and biases
    cdef idx in_features, out_features, n_params
    cdef int type_num
    cdef bint drops
    cdef list losses, rules, alone, steps   # `alone`: rules of `update`, which accumulates nothing
    cdef Ahead ahead
    cdef list ahead_of_hidden           # an `Ahead` for each hidden layer
    cdef idx kept_capacity              # rows of `kept`
    cdef list kept, updaters            # programs that keep what `backward` needs; that update
    cdef object kept_plan
    cdef list buffers                   # laid out as the parameters, for gradients

    def __cinit__(self, Forced forced, spec, programs, cnp.ndarray params, state, lock, list pending, make_buffer, room_for,
                  give_back):
        self.forced, self.programs, self.params, self.state = forced, programs, params, state
        self.lock, self.pending, self.make_buffer = lock, pending, make_buffer
        self.room_for, self.give_back = room_for, give_back
        self.count, self.type_num, self.drops = state.count, cnp.PyArray_TYPE(params), bool(spec.dropout)
        self.in_features, self.out_features, self.n_params = spec.in_features, spec.out_features, spec.n_params
        self.losses, self.rules, self.alone, self.steps, self.buffers = [], [], [], [], []
        self.ahead, self.ahead_of_hidden = Ahead(spec.out_features), list(map(Ahead, spec.sizes[1:-1]))
        self.kept_capacity = 0
        self.places = []
        for layer in spec.layers:
            rows, cols = layer.in_features, layer.out_features
            self.places.append((layer.weight, rows, cols, layer.ldw, layer.transposed))
            if layer.bias is not None:
                self.places.append((layer.bias, 1, cols, 0, False))

    def is_current(self):
        """Whether nothing is forced that was not when the first of these calls was made, and all that was is."""
        return self.forced.still()

    # ---- what is remembered

    def remember_ahead(self, idx rows, list idle, hidden=None):
        """Programs that go forward, for so many rows, up to a hidden layer or to the output."""
        cdef Ahead ahead = self.ahead if hidden is None else self.ahead_of_hidden[hidden]
        if rows > ahead.capacity:
            ahead.capacity, ahead.idle = rows, idle

    def remember_kept(self, plan, list idle):
        """Programs that go forward and keep what `backward` needs."""
        if plan.batch > self.kept_capacity:
            self.kept_capacity, self.kept_plan, self.kept = plan.batch, plan, idle

    def remember_loss(self, loss, what, idx rows=0, list idle=None):
        """A loss; with programs that compute it for so many rows. `what`: the other arguments of `KnownLoss`."""
        cdef KnownLoss known = self.find_loss(loss)
        if known is None:
            known = KnownLoss(loss, *what)
            remember(self.losses, known)
        if rows > known.capacity:
            known.capacity, known.idle = rows, idle
        return known

    def remember_step(self, KnownLoss loss, optimizer, what, idx rows, list idle):
        """Programs that train with a loss and an optimizer. `what`: the other arguments of `KnownRule`."""
        cdef KnownStep known = None
        cdef KnownRule rule = self.find_rule(self.rules, optimizer)
        if rule is None:
            rule = KnownRule(optimizer, *what)
            remember(self.rules, rule)
        else:
            known = self.find_step(loss, rule)
        if known is None:
            known = KnownStep(loss, rule)
            remember(self.steps, known)
        if rows > known.capacity:
            known.capacity, known.idle = rows, idle

    def rule(self, optimizer, what):
        """A `KnownRule`, which is not remembered here."""
        return KnownRule(optimizer, *what)

    def remember_update(self, optimizer, what, list idle):
        """An optimizer of `update` and `backward_update`, and programs that update."""
        if self.find_rule(self.alone, optimizer) is None:
            remember(self.alone, KnownRule(optimizer, *what))
        self.updaters = idle

    cdef KnownLoss find_loss(self, loss):
        for known in self.losses:
            if (<KnownLoss> known).loss is loss:
                return known
        for known in self.losses:
            if is_same((<KnownLoss> known).loss, loss):
                return known
        return None

    cdef KnownRule find_rule(self, list rules, optimizer):
        for known in rules:
            if (<KnownRule> known).optimizer is optimizer:
                return known
        for known in rules:
            if is_same((<KnownRule> known).optimizer, optimizer):
                return known
        return None

    cdef KnownStep find_step(self, KnownLoss loss, KnownRule rule):
        for known in self.steps:
            if (<KnownStep> known).loss is loss and (<KnownStep> known).rule is rule:
                return known
        return None

    cdef KnownStep known_step(self, loss, optimizer):
        cdef KnownLoss known = self.find_loss(loss)
        cdef KnownRule rule = None if known is None else self.find_rule(self.rules, optimizer)
        return None if rule is None else self.find_step(known, rule)

    # ---- training

    def knows_step(self, idx rows, loss, optimizer):
        """Whether a step on so many rows is remembered."""
        cdef KnownStep known = self.known_step(loss, optimizer)
        return known is not None and rows <= known.capacity

    def train_step(self, x, y, loss, optimizer, sample_weight, missing):
        """The loss before the update."""
        cdef KnownStep known = self.known_step(loss, optimizer)
        if known is None or not (missing == "raise" or missing == "ignore" and known.loss.pointwise):
            return None
        if not self.lock.acquire(False):
            return None
        try:
            return self.step(known, as_real(x), as_real(y), sample_weight, missing == "ignore")
        finally:
            self.lock.release()

    def fit(self, X, y, loss, optimizer, idx batch_size, idx steps, bint shuffle, idx most):
        """A short run: the entries of its history, loss and `net.step`; its steps, and by which rule.

        Of at most `most` steps, or of as many as the last run on such batches would have made in one piece.
        """
        cdef KnownStep known = self.known_step(loss, optimizer)
        if known is None or not is_matrix(as_real(X), -1, self.in_features) or not self.lock.acquire(False):
            return None
        try:
            return self.run(known, X, as_real(y), batch_size, steps, shuffle, most)
        finally:
            self.lock.release()

    cdef run(self, KnownStep known, cnp.ndarray x, cnp.ndarray y, idx batch, idx steps, bint shuffle, idx most):
        """As `fastbp.training.run.Run` makes it, in one piece; one that fails leaves nothing, and is made again there."""
        cdef Data data
        cdef Run run
        cdef CTrained done
        cdef Update update
        cdef idx n = cnp.PyArray_DIM(x, 0)
        cdef bint good = False
        cdef KnownRule rule = known.rule
        state = self.state
        if not known.idle or batch > known.capacity or not self.forced.still() or state._untold is not None:
            return None
        cdef tuple piece = (<Program> known.idle[-1]).piece
        if steps > most and (batch != piece[0] or steps > piece[1]):
            return None
        if n >= 2 ** 32 or rule.of_all_rows and batch < n or not known.loss.fits(y, n, False, &data.y, &data.y_is_label):
            return None
        if overlap(x, self.params) or overlap(y, self.params):
            return None
        data.x, data.weight, data.weights = source_of(x), <const double*> NULL, 1
        cdef cnp.ndarray place = state.place, partial = np.zeros(2), losses = np.empty(steps + 1)
        cdef int64_t* count = <int64_t*> data_of(self.count)
        cdef int64_t* at = <int64_t*> data_of(place)
        cdef double* sums = <double*> data_of(partial)
        cdef dict before = state.__dict__.copy()
        cdef int64_t[3] was = [at[0], at[1], count[0]]
        cdef list arrays = [], rooms = []   # what steps move on, and its copies
        cdef list idle = known.idle
        cdef Program program = idle.pop()
        try:
            if state.data_shape != (n, batch):
                state.enter(n, batch)
            if rule.steady or steps <= MOST_FORESEEN:
                if not rule.is_ready(state, count[0], steps):
                    rule.make_ready(state, count[0], program, steps)
                given, update = rule.given, rule.update
            else:
                given = state.update(rule.rule, steps, self.params, accumulate=rule.accumulate)
                update = program.update_of(given)
            arrays = [self.params, *given.buffers]
            rooms = self.room_for(arrays)
            for array, room in zip(arrays, rooms):
                copy_away(data_of(room), data_of(array), cnp.PyArray_NBYTES(array))
            run.batch_size, run.steps, run.seed = batch, steps, state.seed
            run.shuffle, run.stop_on_loss, run.stop_on_params = shuffle, True, False
            run.count, run.place, run.partial, run.losses = count, at, sums, <double*> data_of(losses)
            with nogil:
                done = program.program.train(data, run, update)
                good = done.steps == steps and program.program.finite()
        finally:
            idle.append(program)
            if not good:
                at[0], at[1], count[0] = was[0], was[1], was[2]
                for array, room in zip(arrays, rooms):
                    array[...] = room
                state.__dict__.update(before)
                rule.given = None
        if good:
            state.loss, state.link = known.loss.row, known.loss.row.link
        self.give_back(rooms)           # Python's code, where a signal may come in: all is done by now, or nothing
        if not good:
            return None
        self.drop_pending()
        tell_of_refused()
        cdef idx entries = done.epochs + (sums[1] > 0)
        cdef cnp.ndarray step = np.empty(entries, np.int64)
        for k in range(done.epochs):
            (<int64_t*> data_of(step))[k] = count[0] - at[1] // batch - (done.epochs - 1 - k) * ((n + batch - 1) // batch)
        if sums[1] > 0:
            (<double*> data_of(losses))[done.epochs] = sums[0] / sums[1]
            (<int64_t*> data_of(step))[done.epochs] = count[0]
        return losses[:entries].copy(), step, steps, rule.rule

    cdef step(self, KnownStep known, cnp.ndarray x, cnp.ndarray y, sample_weight, bint may_miss):
        if not known.idle or not self.forced.still():
            return None
        cdef CTrained done
        cdef list idle = known.idle
        cdef Program program = idle.pop()
        try:
            done = self.trained(program, known.capacity, known.loss, known.rule, x, y, sample_weight, may_miss, True)
        finally:
            idle.append(program)
        if not done.steps:
            return None
        if self.state.loss is not known.loss.row:
            self.state.loss, self.state.link = known.loss.row, known.loss.row.link
        self.drop_pending()
        tell_of_refused()
        return done.loss

    cdef CTrained trained(self, Program program, idx capacity, KnownLoss loss, KnownRule rule, cnp.ndarray x,
                          cnp.ndarray y, sample_weight, bint may_miss, bint stop_on_loss) except *:
        """One step, if nothing is wrong with the arrays. The caller has the lock, and the program for itself."""
        cdef CTrained done
        cdef Data data
        done.steps = 0
        if not is_matrix(x, -1, self.in_features):
            return done
        cdef idx rows = cnp.PyArray_DIM(x, 0)
        if rows > capacity or not loss.fits(y, rows, may_miss, &data.y, &data.y_is_label):
            return done
        weight = weights_of(sample_weight, rows, loss.cols if loss.pointwise else 0)
        if weight is False or overlap(x, self.params) or overlap(y, self.params):
            return done
        if weight is not None and overlap(weight, self.params):
            return done
        if may_miss and data.y.kind == c'f':
            weight = known_only(y, weight)
        data.x = source_of(x)
        data.weight, data.weights = <const double*> data_or_null(weight), weights_of_row(weight)
        cdef int64_t place[2]
        cdef double partial[2]
        cdef double losses[1]
        place[0] = place[1] = 0
        partial[0] = partial[1] = 0
        cdef Run run
        run.batch_size, run.steps, run.seed = rows, 1, self.state.seed if self.drops else 0
        run.shuffle, run.stop_on_loss, run.stop_on_params = False, stop_on_loss, False
        run.count, run.place, run.partial, run.losses = <int64_t*> data_of(self.count), place, partial, losses
        cdef idx at = run.count[0]
        cdef dict before = None
        try:
            if not rule.is_ready(self.state, at):
                before = self.state.__dict__.copy()
                rule.make_ready(self.state, at, program)
            with nogil:
                done = program.program.train(data, run, rule.update)
        finally:
            self.unless_moved(at, before, rule)
        return done

    def train_batches(self, Program program, KnownLoss loss, KnownRule rule, batches, idx stop, bint stop_on_loss,
                      cnp.ndarray place, cnp.ndarray partial):
        """Train on the batches from `place` on, up to `stop`, as `fit` does, or up to the first that is not plain.

        The caller has the lock. Gives how many there were.
        """
        cdef int64_t* at = <int64_t*> data_of(place) + 1
        cdef double* sums = <double*> data_of(partial)
        cdef idx start = at[0], capacity = program.plan.batch
        cdef CTrained done
        while at[0] < min(stop, len(batches)):
            batch = batches[at[0]]
            if type(batch) is not tuple or not 2 <= len(<tuple> batch) <= 3:
                break
            x = as_real((<tuple> batch)[0])
            weight = (<tuple> batch)[2] if len(<tuple> batch) == 3 else None
            y = as_real((<tuple> batch)[1])
            done = self.trained(program, capacity, loss, rule, x, y, weight, False, stop_on_loss)
            if not done.steps:
                break
            at[0] += 1
            sums[0] += done.loss * <double> len(x)
            sums[1] += <double> len(x)
        tell_of_refused()
        return at[0] - start

    cdef int unless_moved(self, idx at, dict before, KnownRule rule) except -1:
        """A call that made no step leaves nothing."""
        if before is not None and (<int64_t*> data_of(self.count))[0] == at:
            self.state.__dict__.update(before)
            rule.given = None
        return 0

    cdef int drop_pending(self) except -1:
        while self.pending:
            self.put_back(self.pending.pop()[0])
        return 0

    cdef int put_back(self, Program program) except -1:
        """Where the pending ones come from."""
        if program.plan is self.kept_plan:
            self.kept.append(program)
        else:
            self.programs.give_back(program)
        return 0

    # ---- looking

    def predict(self, X):
        """The network's output."""
        return self.outputs(as_real(X), self.ahead)

    def hidden(self, X, layer):
        """A hidden layer's output."""
        cdef idx n = len(self.ahead_of_hidden)
        if type(layer) is not int or not -n <= layer < n:
            return None
        return self.outputs(as_real(X), <Ahead> self.ahead_of_hidden[layer])

    cdef outputs(self, cnp.ndarray x, Ahead ahead):
        cdef cnp.npy_intp shape[2]
        if not is_matrix(x, -1, self.in_features) or not self.forced.still():
            return None
        cdef idx rows = cnp.PyArray_DIM(x, 0), block = min(rows, BLOCK_ROWS), start = 0
        if block > ahead.capacity or not ahead.idle:
            return None
        shape[0], shape[1] = rows, ahead.width
        out = cnp.PyArray_EMPTY(2, shape, self.type_num, 0)
        cdef char* to = <char*> data_of(out)
        cdef idx row_bytes = ahead.width * cnp.PyArray_ITEMSIZE(out)
        cdef Source source = source_of(x)
        cdef list idle = ahead.idle
        cdef Program program = idle.pop()
        try:
            with nogil:
                while start < rows:
                    program.program.forward(rows_of(source, start, min(block, rows - start)), to + start * row_bytes, False)
                    start += block
        finally:
            idle.append(program)
        tell_of_refused()
        return out

    def input_gradient(self, X, output):
        """The gradient of one output of each row by the inputs."""
        cdef cnp.ndarray x = as_real(X), labels = None, one_hot
        cdef cnp.npy_intp shape[2]
        cdef Source source, of_output
        if not is_matrix(x, -1, self.in_features) or not self.forced.still():
            return None
        cdef idx rows = cnp.PyArray_DIM(x, 0), block = min(rows, BLOCK_ROWS), start = 0, count, n, k = self.out_features
        cdef idx size = cnp.PyArray_ITEMSIZE(self.params), column = 0
        cdef const int64_t* label = NULL
        if output is None:
            if k > 1:
                return None
        elif type(output) is int:
            if not -k <= output < k:
                return None
            column = output
            if column < 0:
                column += k
        else:
            labels = as_real(output)
            if labels is None or cnp.PyArray_NDIM(labels) != 1 or cnp.PyArray_DIM(labels, 0) != rows:
                return None
            if cnp.PyArray_ISFLOAT(labels):
                return None
            labels = labels.astype(np.int64)   # a copy: another thread may change the caller's once they are checked
            if not within(source_of(labels), 0, k - 1, False, False):
                return None
            label = <const int64_t*> data_of(labels)
        if block > self.ahead.capacity or not self.ahead.idle:
            return None
        shape[0], shape[1] = rows, self.in_features
        made = cnp.PyArray_EMPTY(2, shape, self.type_num, 0)
        shape[0], shape[1] = block, k
        one_hot = cnp.PyArray_ZEROS(2, shape, self.type_num, 0)
        cdef char* to = <char*> data_of(made)
        cdef char* ones = <char*> data_of(one_hot)
        source, of_output = source_of(x), source_of(one_hot)
        cdef list idle = self.ahead.idle
        if not idle:                    # another thread has taken it: making arrays runs code of Python's
            return None
        cdef Program program = idle.pop()
        try:
            with nogil:
                while start < rows:
                    count = min(block, rows - start)
                    program.program.forward(rows_of(source, start, count), NULL, False)
                    for n in range(count):
                        put(ones + (n * k + (column if label == NULL else label[start + n])) * size, size, 1)
                    program.program.backward(&of_output, NULL, NULL, to + start * self.in_features * size, False)
                    for n in range(count):
                        put(ones + (n * k + (column if label == NULL else label[start + n])) * size, size, 0)
                    start += count
        finally:
            idle.append(program)
        tell_of_refused()
        return made

    def evaluate(self, X, y, loss, sample_weight):
        """The loss."""
        return self.measure(as_real(X), as_real(y), loss, sample_weight, None)

    def loss_and_grad(self, X, y, loss, sample_weight):
        """The loss and its gradient, dense."""
        cdef cnp.ndarray buffer = self.buffers.pop() if self.buffers else self.make_buffer()
        cdef cnp.npy_intp size = self.n_params
        try:
            value = self.measure(as_real(X), as_real(y), loss, sample_weight, buffer)
            if value is None:
                return None
            gradient = cnp.PyArray_EMPTY(1, &size, self.type_num, 0)
            self.flatten(<const char*> data_of(buffer), <char*> data_of(gradient), cnp.PyArray_ITEMSIZE(buffer))
        finally:
            self.buffers.append(buffer)
        return value, gradient

    cdef measure(self, cnp.ndarray x, cnp.ndarray y, loss, sample_weight, cnp.ndarray gradient):
        """The loss on the rows, its gradient into a padded buffer where there is one; or None."""
        cdef KnownLoss known = self.find_loss(loss)
        cdef Source targets
        cdef cbool is_label
        if known is None or not is_matrix(x, -1, self.in_features) or not self.forced.still():
            return None
        cdef idx rows = cnp.PyArray_DIM(x, 0), block = min(rows, BLOCK_ROWS), start = 0, count
        if block > known.capacity or not known.fits(y, rows, False, &targets, &is_label):
            return None
        weight = weights_of(sample_weight, rows, 0)
        if weight is False:
            return None
        cdef const double* w = <const double*> data_or_null(weight)
        cdef double total = rows if weight is None else weight.sum(), value = 0
        cdef Source source = source_of(x)
        cdef void* grads = data_or_null(gradient)
        cdef bint backward = gradient is not None
        if backward:
            memset(grads, 0, cnp.PyArray_NBYTES(gradient))
        cdef list idle = known.idle
        if not idle:                    # another thread has taken it: a sum of NumPy's runs code of Python's
            return None
        cdef Program program = idle.pop()
        try:
            with nogil:
                while start < rows:
                    count = min(block, rows - start)
                    program.program.forward(rows_of(source, start, count), NULL, False)
                    value += program.program.loss(rows_of(targets, start, count), is_label, w, 1, total, backward)
                    if backward:
                        program.program.backward(NULL, grads, NULL, NULL, True)
                    if w != NULL:
                        w += count
                    start += count
        finally:
            idle.append(program)
        tell_of_refused()
        return value

    cdef int flatten(self, const char* buffer, char* dense, idx size) except -1:
        """`fastbp.spec.Spec.flatten`."""
        cdef idx offset, rows, cols, ldw, m, n
        cdef bint transposed
        for offset, rows, cols, ldw, transposed in self.places:
            for m in range(rows):
                if transposed:
                    for n in range(cols):
                        memcpy(dense + n * size, buffer + (offset + n * ldw + m) * size, size)
                else:
                    memcpy(dense, buffer + (offset + m * ldw) * size, cols * size)
                dense += cols * size
        return 0

    # ---- the caller's own gradient

    def forward(self, x):
        """The output; what `backward` needs is kept."""
        cdef cnp.ndarray given = as_real(x)
        cdef cnp.npy_intp shape[2]
        cdef Program program = None
        if not is_matrix(given, -1, self.in_features) or not self.forced.still():
            return None
        shape[0], shape[1] = cnp.PyArray_DIM(given, 0), self.out_features
        if shape[0] > self.kept_capacity:
            return None
        if self.pending and (<Program> self.pending[0][0]).plan is self.kept_plan:
            program = self.pending.pop(0)[0]
        self.drop_pending()
        if program is None:
            if not self.kept:
                return None
            program = self.kept.pop()
        out = cnp.PyArray_EMPTY(2, shape, self.type_num, 0)
        cdef void* to = data_of(out)
        cdef Source source = source_of(given)
        try:
            with nogil:
                program.program.forward(source, to, True)
        except BaseException:
            self.put_back(program)
            raise
        self.pending.append((program, shape[0]))
        tell_of_refused()
        return out

    def backward(self, grad_output, accumulate, cnp.ndarray grads):
        """dL/dx; `grads` is filled."""
        cdef cnp.ndarray given = as_real(grad_output)
        if not self.pending or (accumulate is not True and accumulate is not False):
            return None
        grad_input = self.grad_input_for(given)
        if grad_input is None:
            return None
        cdef tuple pending = self.pending.pop(0)   # out of reach of other threads
        cdef Program program = pending[0]
        cdef Source source = source_of(given)
        cdef void* into = data_of(grads)
        cdef void* to = data_of(grad_input)
        cdef bint adds = accumulate
        try:
            with nogil:
                program.program.backward(&source, into, NULL, to, adds)
        finally:
            self.pend_again(pending)
        return grad_input

    cdef int pend_again(self, tuple pending) except -1:
        """Unless another thread went forward meanwhile."""
        if self.pending:
            return self.put_back(pending[0])
        self.pending.append(pending)
        return 0

    cdef grad_input_for(self, cnp.ndarray grad_output):
        """Room for dL/dx of the pending rows, if this is their dL/da."""
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = self.pending[0][1], self.in_features
        if not is_matrix(grad_output, shape[0], self.out_features):
            return None
        return cnp.PyArray_EMPTY(2, shape, self.type_num, 0)

    def update(self, optimizer, cnp.ndarray grads):
        """True: one optimizer step was made with `grads`."""
        return self.updated(optimizer, grads, None)

    def backward_update(self, grad_output, optimizer):
        """dL/dx, and one optimizer step."""
        if not self.pending:
            return None
        return self.updated(optimizer, None, as_real(grad_output))

    cdef updated(self, optimizer, cnp.ndarray grads, cnp.ndarray grad_output):
        cdef KnownRule rule = self.find_rule(self.alone, optimizer)
        if rule is None or not self.forced.still() or not self.lock.acquire(False):
            return None
        try:
            if grads is None:
                return self.go_back_and_update(rule, grad_output)
            return self.update_with(rule, grads)
        finally:
            self.lock.release()

    cdef update_with(self, KnownRule rule, cnp.ndarray grads):
        if not self.updaters:
            return None
        cdef void* gradient = data_of(grads)
        cdef int64_t* count = <int64_t*> data_of(self.count)
        cdef idx at = count[0]
        cdef dict before = None
        cdef list idle = self.updaters
        cdef Program program = idle.pop()
        try:
            if not rule.is_ready(self.state, at):
                before = self.state.__dict__.copy()
                rule.make_ready(self.state, at, program)
            with nogil:
                program.program.update(gradient, rule.update)
            count[0] += 1
        finally:
            idle.append(program)
            self.unless_moved(at, before, rule)
        self.drop_pending()
        return True

    cdef go_back_and_update(self, KnownRule rule, cnp.ndarray grad_output):
        cdef cnp.ndarray buffer = None   # the whole gradient comes first where its norm is bounded
        cdef void* grads = NULL
        if rule.clips:
            buffer = self.buffers.pop() if self.buffers else self.make_buffer()
            grads = data_of(buffer)
        grad_input = self.grad_input_for(grad_output) if self.pending else None
        if grad_input is None:
            if buffer is not None:
                self.buffers.append(buffer)
            return None
        cdef Source source = source_of(grad_output)
        cdef void* to = data_of(grad_input)
        cdef int64_t* count = <int64_t*> data_of(self.count)
        cdef idx at = count[0]
        cdef dict before = None
        cdef tuple pending = self.pending.pop(0)
        cdef Program program = pending[0]
        try:
            if not rule.is_ready(self.state, at):
                before = self.state.__dict__.copy()
                rule.make_ready(self.state, at, program)
            with nogil:
                if grads == NULL:
                    program.program.backward(&source, NULL, &rule.update, to, False)
                else:
                    program.program.backward(&source, grads, NULL, to, False)
                    program.program.update(grads, rule.update)
            count[0] += 1
        finally:
            if buffer is not None:
                self.buffers.append(buffer)
            if count[0] == at:
                self.pend_again(pending)
            self.unless_moved(at, before, rule)
        self.put_back(program)
        return grad_input
