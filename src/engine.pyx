# cython: language_level=3, initializedcheck=False
"""The compiled backend's program: arrays -> pointers -> C++ without the GIL -> results. The only Cython of fastbp.

Arguments were checked by `fastbp.spec` and laid out by `fastbp.plan`; here they are only taken apart.
"""

from cpython.object cimport PyObject
from libc.math cimport HUGE_VAL
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport getenv
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import numpy as np
cimport numpy as cnp

cnp.import_array()


cdef extern from "kernels.hpp" namespace "fbp" nogil:
    ctypedef int64_t idx
    cdef struct KernelsOfFloat "fbp::Kernels<float>":
        idx lanes
        void (*epoch_orders)(const uint64_t* seeds, const uint64_t* epochs, idx count, uint32_t n, uint32_t* orders,
                             idx ld) noexcept nogil
    cdef struct Isa:
        KernelsOfFloat f32
        const char* name
    int MAX_SLOTS
    int MAX_SCALARS

cdef extern from "dispatch.hpp" namespace "fbp" nogil:
    int MAX_ISAS
    int built_isas(const Isa** isas)
    cbool found(const Isa& isa)
    cdef struct Bfloat16Kernels:
        pass
    const Bfloat16Kernels* bfloat16_of(const Isa& isa)

cdef extern from "measure.hpp" namespace "fbp" nogil:
    double c_tile_gflops "fbp::tile_gflops"(const Isa& isa, cbool f64)
    double c_rounded_tile_gflops "fbp::tile_gflops"(const Isa& isa, const Bfloat16Kernels& rounded)
    double c_read_repeatedly "fbp::read_repeatedly"(const void* p, size_t n_bytes, idx repeats)
    double c_phase_seconds "fbp::phase_seconds"(int threads, idx repeats)

cdef extern from "memory.hpp" namespace "fbp" nogil:
    cdef struct AllocationCounts:
        int64_t live_buffers, live_bytes, allocations
    AllocationCounts allocation_counts()
    void copy_away(void* to, const void* of, size_t n_bytes)
    void c_set_guard "fbp::set_guard"(cbool on)

cdef extern from "feed.hpp" namespace "fbp" nogil:
    cdef struct Source:
        const char* data
        idx rows, cols, row_stride, col_stride
        char kind
        int itemsize
        cbool swapped

    cbool within(const Source& source, double low, double high, cbool ends, cbool or_nan)
    cbool rows_sum_to_one(const Source& source, double tolerance)

cdef extern from "environment.hpp" namespace "fbp":
    uint64_t c_environment_stamp "fbp::environment_stamp"()

cdef extern from *:
    """
    #ifdef Py_LIMITED_API   // which does not have the faster of the two
    static inline PyObject* fastbp_value_of(PyObject* variable) { return PyObject_CallMethod(variable, "get", NULL); }
    #else
    static inline PyObject* fastbp_value_of(PyObject* variable) {
      PyObject* value;
      return PyContextVar_Get(variable, NULL, &value) < 0 ? NULL : value;
    }
    #endif
    """
    object value_of "fastbp_value_of"(object context_variable)

cdef extern from "threads.hpp" namespace "fbp" nogil:
    void c_limit_threads "fbp::limit_threads"(int most)
    int c_thread_limit "fbp::thread_limit"()
    cbool c_threads_were_refused "fbp::threads_were_refused"()

cdef extern from "program.hpp" namespace "fbp" nogil:
    cdef struct LayerShape:
        idx in_ "in"
        idx out, ldw, weight, bias
        cbool transposed
        int activation
        uintptr_t own_forward, own_backward
        cbool keeps_z, skips_zeros, trains_weight, trains_bias
        double dropout
    cdef struct Shape:
        const LayerShape* layers
        int n_layers
        idx batch
        int loss
        uintptr_t own_loss
        cbool own_loss_uses_lse, own_loss_pairs
        double loss_scale
        const double* settings
        idx n_settings
        const double* output_weights
        idx n_output_weights
        int optimizer
        cbool rounds, fused, plain
        int n_threads
        cbool gated
    double C_FLOPS_OF_A_THREAD "fbp::FLOPS_OF_A_THREAD"
    cdef struct LayerPlan:
        int family, forward_threads, backward_threads
    cdef struct Scalar:
        const char* data
        idx stride
    cdef cppclass Update:
        int row
        cbool skip_zeros
        uintptr_t own
        void* slots[4]
        int n_scalars
        vector[Scalar] scalars
        vector[double] l1
        double clip_value, clip_norm, max_norm
        void* average
        double decay
        idx accumulate, phase
        void* accumulated
    cdef struct Data:
        Source x, y
        cbool y_is_label
        const double* weight
        idx weights
    cdef struct Run:
        idx batch_size, steps
        uint64_t seed
        cbool shuffle, stop_on_loss, stop_on_params
        int64_t* count
        int64_t* place
        double* partial
        double* losses
        cbool goes_on
        const int64_t* orders
        double factor
        const double* l2
        double* stall
    cdef struct CTrained "fbp::Trained":
        idx steps, epochs
        int status
        double loss
    cdef cppclass CProgram "fbp::Program":
        CTrained train(const Data& data, const Run& run, const Update& update) except +
        void forward(const Source& x, void* out, cbool keep) except +
        void restore(const Source& x, const Source& a, const Source* z) except +
        double loss(const Source& y, cbool y_is_label, const double* weight, idx weights, double total,
                    cbool gradient) except +
        void backward(const Source* grad_output, void* grads, const Update* update, void* grad_input,
                      cbool accumulate) except +
        void update(void* grads, const Update& update) except +
        cbool finite()
        void describe(idx rows, LayerPlan* plans)
        int64_t workspace_bytes
    CProgram* make_program(const Isa& isa, int itemsize, const Shape& shape, void* params, const CProgram* like) except +

cdef extern from "many.hpp" namespace "fbp" nogil:
    cdef struct Member:
        void* params
        int64_t* count
        int64_t* place
        double* partial
        double* losses
        Source x, y
        cbool y_is_label
        const double* weight
        const int64_t* rows
        idx n
        uint64_t seed
    cdef struct Outcome:
        int64_t status, epochs
    cdef cppclass CMany "fbp::Many":
        void train(idx n, const int64_t* which, const int64_t* steps, const Update* updates,
                   Outcome* outcomes) except +
        void evaluate(idx n, const int64_t* which, const Source& x, const Source& y, cbool y_is_label,
                      const double* weight, double total, double* losses) except +
        void forward(idx n, const int64_t* which, const Source& x, void* out) except +
    CMany* make_many(const Isa& isa, int itemsize, const Shape& shape, const vector[Member]& members, idx batch_size,
                     cbool shuffle, cbool stop_on_non_finite) except +

cdef extern from "kernels/rows_generated.hpp" nogil:
    const unsigned int FBP_ROWS

cdef extern from *:
    """
    #if defined(__clang__)
    #define FBP_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define FBP_COMPILER "GCC " __VERSION__
    #else
    #define FBP_COMPILER "unknown"
    #endif
    #if !defined(FASTBP_COMPILE_FLAGS)
    #define FASTBP_COMPILE_FLAGS "unknown"
    #endif
    """
    const char* FBP_COMPILER
    const char* FASTBP_COMPILE_FLAGS

COMPILER = FBP_COMPILER.decode()
COMPILE_FLAGS = FASTBP_COMPILE_FLAGS.decode()
ROWS = FBP_ROWS
FLOPS_OF_A_THREAD = <int> C_FLOPS_OF_A_THREAD


cdef inline void* data_of(cnp.ndarray a) noexcept:
    return cnp.PyArray_DATA(a)


cdef inline void* data_or_null(a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(<cnp.ndarray> a)


cdef inline idx weights_of_row(weight) except -1:
    if weight is None or cnp.PyArray_NDIM(<cnp.ndarray> weight) == 1:
        return 1
    return cnp.PyArray_DIM(<cnp.ndarray> weight, 1)


# ------------------------------------------------------------------ the environment

def environment_stamp():
    """One number for all variables that fastbp reads: where one has changed it is another."""
    return c_environment_stamp()


# ------------------------------------------------------------------ instruction sets

cdef const Isa* find_isa(name) except NULL:
    cdef const Isa* isas[8]
    cdef int n = built_isas(isas)
    for k in range(n):
        if isas[k].name.decode() == name:
            return isas[k]
    raise RuntimeError(f"ISA {name!r} was not built; there is: {', '.join(isas_built())}")


def isas_built():
    """Names of the instruction sets that kernels were compiled for, plainest first."""
    cdef const Isa* isas[8]
    cdef int n = built_isas(isas)
    return [isas[k].name.decode() for k in range(n)]


def isas_found():
    """Those of them that this machine and its operating system have."""
    return [name for name in isas_built() if found(find_isa(name)[0])]


_found = tuple(isas_found())


def choose_isa(requested=None):
    """The widest instruction set found, or the one requested; RuntimeError where that is missing."""
    if requested is None:
        return _found[-1]
    if requested not in _found:
        raise RuntimeError(f"FASTBP_ISA={requested!r} is not to be had here; there is: {', '.join(_found)}")
    return requested


def has_bfloat16(isa):
    """Whether this machine multiplies in bfloat16 beside an instruction set's kernels."""
    return bfloat16_of(find_isa(isa)[0]) != NULL


def vector_bytes(isa):
    """Of an instruction set's vectors."""
    return find_isa(isa).f32.lanes * sizeof(float)


# ------------------------------------------------------------------ memory, for tests

def allocations():
    """(live buffers, live bytes, allocations so far) of the engine's allocator."""
    cdef AllocationCounts counts = allocation_counts()
    return counts.live_buffers, counts.live_bytes, counts.allocations


def set_guard(bint on):
    """Let each buffer made from here on end before an unmapped page, behind guard bytes checked when it is freed."""
    c_set_guard(on)


# ------------------------------------------------------------------ what the machine can do, for the benchmark

def tile_gflops(isa, str precision):
    """GFLOP/s of the register tile with its operands in the L1 cache, best of many: of "float64", "float32", "bfloat16".

    RuntimeError where this machine has no products in bfloat16.
    """
    cdef const Isa* kernels = find_isa(isa)
    cdef const Bfloat16Kernels* rounded = bfloat16_of(kernels[0])
    cdef bint f64 = precision == "float64", by_pairs = precision == "bfloat16"
    cdef double rate
    if by_pairs and rounded == NULL:
        raise RuntimeError(f"there are no products in bfloat16 beside the ISA {isa!r} here")
    with nogil:
        rate = c_rounded_tile_gflops(kernels[0], rounded[0]) if by_pairs else c_tile_gflops(kernels[0], f64)
    return rate


def read_repeatedly(cnp.ndarray array, idx repeats):
    """Read a contiguous array some times; gives a sum of what was read."""
    cdef size_t n_bytes = <size_t> (cnp.PyArray_NBYTES(array) // 128 * 128)
    cdef double total
    cdef const void* data = data_of(array)
    with nogil:
        total = c_read_repeatedly(data, n_bytes, repeats)
    return total


# ------------------------------------------------------------------ the order of rows

def epoch_orders(isa, cnp.ndarray seeds, cnp.ndarray epochs, uint32_t n):
    """`fastbp.order.epoch_order` for pairs of uint64 numbers, (pairs, n) uint32."""
    cdef const Isa* kernels = find_isa(isa)
    cdef idx count = len(seeds)
    cdef cnp.ndarray orders = np.empty((count, n), np.uint32)
    cdef const uint64_t* of = <const uint64_t*> data_of(seeds)
    cdef const uint64_t* at = <const uint64_t*> data_of(epochs)
    cdef uint32_t* to = <uint32_t*> data_of(orders)
    with nogil:
        kernels.f32.epoch_orders(of, at, count, n, to, n)
    return orders


# ------------------------------------------------------------------ threads

def limit_threads(int most):
    """Let no call use more threads from here on."""
    c_limit_threads(most)


def thread_limit():
    return c_thread_limit()


def phase_seconds(int threads, idx repeats):
    """What sharing costs: seconds of a phase in which so many threads only meet, the mean of `repeats` in a row."""
    cdef double seconds
    with nogil:
        seconds = c_phase_seconds(threads, repeats)
    return seconds


cdef int tell_of_refused() except -1:
    """To be called after whatever may have started threads."""
    if c_threads_were_refused():
        import warnings
        warnings.warn("the system refused to start a thread: fastbp goes on with fewer", RuntimeWarning)


# ------------------------------------------------------------------ programs

cdef Source source_of(cnp.ndarray a):
    cdef Source s
    cdef cnp.dtype dtype = a.dtype
    s.data = <const char*> cnp.PyArray_DATA(a)
    s.rows = cnp.PyArray_DIM(a, 0)
    s.row_stride = cnp.PyArray_STRIDE(a, 0)
    s.cols = cnp.PyArray_DIM(a, 1) if cnp.PyArray_NDIM(a) > 1 else 1
    s.col_stride = cnp.PyArray_STRIDE(a, 1) if cnp.PyArray_NDIM(a) > 1 else 0
    s.kind = dtype.kind
    s.itemsize = <int> cnp.PyArray_ITEMSIZE(a)
    s.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    return s


cdef Shape shape_of(plan, list layers, vector[LayerShape]* shapes, int loss, double loss_scale,
                    vector[double]& settings, vector[double]& output_weights, tuple own_loss) except *:
    """It points to what it was given."""
    cdef LayerShape one
    for one.in_, one.out, one.ldw, one.transposed, one.weight, one.bias, one.activation, one.own_forward, \
            one.own_backward, one.keeps_z, one.skips_zeros, one.trains_weight, one.trains_bias, \
            one.dropout in layers:
        shapes.push_back(one)
    cdef Shape shape
    shape.layers = shapes.data()
    shape.n_layers = <int> shapes.size()
    shape.batch = plan.batch
    shape.loss = loss
    shape.own_loss, shape.own_loss_uses_lse, shape.own_loss_pairs = own_loss
    shape.loss_scale = loss_scale
    shape.settings, shape.n_settings = settings.data(), <idx> settings.size()
    shape.output_weights, shape.n_output_weights = output_weights.data(), <idx> output_weights.size()
    shape.optimizer = -1
    shape.rounds, shape.fused, shape.plain = plan.rounds, plan.fused, plan.plain
    shape.n_threads, shape.gated = plan.n_threads, plan.gated
    return shape


cdef Update update_of(given, dict optimizer_index, own_rows) except *:
    cdef Update update
    cdef Scalar scalar
    cdef cnp.ndarray a
    cdef int k
    update.row = optimizer_index.get(given.row, -1)
    update.own = 0 if update.row >= 0 else own_rows.update(given.row)
    update.skip_zeros = given.skip_zeros
    for k in range(len(given.slots)):
        update.slots[k] = data_of(given.slots[k])
    update.n_scalars = <int> len(given.row.scalars)
    for group in given.scalars:
        for a in group:
            scalar.data = <const char*> cnp.PyArray_DATA(a)
            scalar.stride = cnp.PyArray_STRIDE(a, 0)
            update.scalars.push_back(scalar)
    update.l1 = given.l1
    update.clip_value, update.clip_norm, update.max_norm = given.clip_value, given.clip_norm, given.max_norm
    update.average, update.decay = data_or_null(given.average), given.decay
    update.accumulate, update.phase = given.accumulate, given.phase
    update.accumulated = data_or_null(given.accumulated)
    return update


cdef tuple NO_PIECE = (0, 0)


cdef class Program:
    """One network shape bound to its parameter buffer; see `fastbp.backends.Program`.

    Built by `fastbp.backends.cython` from a plan; `params` stays alive with it.
    """

    cdef CProgram* program
    cdef readonly object plan
    cdef readonly cnp.ndarray params
    cdef public tuple piece                 # see the protocol
    cdef dict optimizer_index
    cdef object own_rows                    # keeps what the addresses of a user's rows point to
    cdef size_t n_layers

    def __cinit__(self, plan, cnp.ndarray params, isa, list layers, int loss, double loss_scale,
                  vector[double] settings, vector[double] output_weights, dict optimizer_index, own_rows,
                  tuple own_loss, Program like=None):
        cdef vector[LayerShape] shapes
        cdef Shape shape = shape_of(plan, layers, &shapes, loss, loss_scale, settings, output_weights, own_loss)
        if like is not None and (like.params is not params or like.n_layers != shapes.size()):
            raise ValueError("like must be a program of the same network")
        self.plan = plan
        self.params = params
        self.piece = NO_PIECE
        self.optimizer_index, self.own_rows = optimizer_index, own_rows
        self.n_layers = shapes.size()
        self.program = make_program(find_isa(isa)[0], <int> cnp.PyArray_ITEMSIZE(params), shape, data_of(params),
                                    like.program if like is not None else <CProgram*> NULL)

    def __dealloc__(self):
        del self.program

    cdef Update update_of(self, given) except *:
        return update_of(given, self.optimizer_index, self.own_rows)

    def train(self, cnp.ndarray X, cnp.ndarray y, weight, *, idx batch_size, idx steps, uint64_t seed, bint shuffle,
              cnp.ndarray count, cnp.ndarray place, cnp.ndarray partial, cnp.ndarray losses, update,
              bint stop_on_loss, bint stop_on_params, course=None, bint goes_on=False):
        cdef Data data
        cdef Run run
        cdef CTrained done
        data.x = source_of(X)
        data.y = source_of(y)
        data.y_is_label = cnp.PyArray_NDIM(y) == 1
        data.weight, data.weights = <const double*> data_or_null(weight), weights_of_row(weight)
        run.batch_size, run.steps, run.seed = batch_size, steps, seed
        run.shuffle, run.stop_on_loss, run.stop_on_params = shuffle, stop_on_loss, stop_on_params
        run.count = <int64_t*> data_of(count)
        run.place = <int64_t*> data_of(place)
        run.partial = <double*> data_of(partial)
        run.losses = <double*> data_of(losses)
        run.goes_on = goes_on
        if course is not None:
            run.orders, run.factor = <const int64_t*> data_or_null(course.orders), course.factor
            run.l2, run.stall = <const double*> data_or_null(course.l2), <double*> data_or_null(course.stall)
        cdef Update what = self.update_of(update)
        with nogil:
            done = self.program.train(data, run, what)
        tell_of_refused()
        return done.steps, done.status, done.epochs, done.loss

    def forward(self, cnp.ndarray x, out, *, bint keep=False):
        cdef Source source = source_of(x)
        cdef void* to = data_or_null(out)
        with nogil:
            self.program.forward(source, to, keep)
        tell_of_refused()

    def restore(self, cnp.ndarray x, cnp.ndarray a, z):
        cdef Source x_source = source_of(x), a_source = source_of(a), z_source
        cdef const Source* kept = NULL
        if z is not None:
            z_source = source_of(z)
            kept = &z_source
        with nogil:
            self.program.restore(x_source, a_source, kept)

    def loss(self, cnp.ndarray y, weight, double total, *, bint gradient):
        cdef Source source = source_of(y)
        cdef cbool y_is_label = cnp.PyArray_NDIM(y) == 1
        cdef const double* w = <const double*> data_or_null(weight)
        cdef idx weights = weights_of_row(weight)
        cdef double value
        with nogil:
            value = self.program.loss(source, y_is_label, w, weights, total, gradient)
        return value

    def backward(self, grads, *, grad_output=None, grad_input=None, bint accumulate=False):
        cdef Source source
        cdef const Source* given = NULL
        cdef void* to = data_or_null(grad_input)
        cdef void* into = data_or_null(grads)
        if grad_output is not None:
            source = source_of(grad_output)
            given = &source
        with nogil:
            self.program.backward(given, into, NULL, to, accumulate)

    def update(self, cnp.ndarray grads, update, cnp.ndarray count):
        cdef Update what = self.update_of(update)
        cdef void* gradient = data_of(grads)
        with nogil:
            self.program.update(gradient, what)
        (<int64_t*> data_of(count))[0] += 1   # before Python has a look at signals

    def backward_update(self, cnp.ndarray grad_output, cnp.ndarray grad_input, update, cnp.ndarray count):
        cdef Source source = source_of(grad_output)
        cdef Update what = self.update_of(update)
        cdef void* to = data_of(grad_input)
        with nogil:
            self.program.backward(&source, NULL, &what, to, False)
        (<int64_t*> data_of(count))[0] += 1

    def finite(self):
        cdef cbool value
        with nogil:
            value = self.program.finite()
        return value

    def described(self, idx rows):
        """How `train` computes each layer of a batch of `rows`: a member of `Family` in src/kernels.hpp, threads forward
        and back.
        """
        cdef vector[LayerPlan] plans
        plans.resize(self.n_layers)
        self.program.describe(rows, plans.data())
        return [(plan.family, plan.forward_threads, plan.backward_threads) for plan in plans]

    @property
    def workspace_bytes(self):
        return self.program.workspace_bytes


cdef class Many:
    """Many networks of one kind, a network per lane; see `fastbp.backends.Many`.

    Built by `fastbp.backends.cython`; the members' arrays stay alive with it.
    """

    cdef CMany* many
    cdef readonly object plan
    cdef readonly list members
    cdef dict optimizer_index
    cdef idx out_features

    def __cinit__(self, plan, list members, isa, list layers, int loss, double loss_scale, vector[double] settings,
                  vector[double] output_weights, dict optimizer_index, *, idx batch_size, bint shuffle,
                  bint stop_on_non_finite):
        cdef vector[LayerShape] shapes
        cdef Shape shape = shape_of(plan, layers, &shapes, loss, loss_scale, settings, output_weights, (0, False, False))
        cdef vector[Member] all_
        cdef Member one
        for member in members:
            one.params = data_of(member.params)
            one.count, one.place = <int64_t*> data_of(member.count), <int64_t*> data_of(member.place)
            one.partial, one.losses = <double*> data_of(member.partial), <double*> data_of(member.losses)
            one.x, one.y = source_of(member.X), source_of(member.y)
            one.y_is_label = cnp.PyArray_NDIM(member.y) == 1
            one.weight, one.rows = <const double*> data_or_null(member.weight), <const int64_t*> data_or_null(member.rows)
            one.n = one.x.rows if member.rows is None else cnp.PyArray_DIM(member.rows, 0)
            one.seed = member.seed
            all_.push_back(one)
        self.plan, self.members, self.optimizer_index = plan, members, optimizer_index
        self.out_features = shapes.back().out
        self.many = make_many(find_isa(isa)[0], <int> plan.spec.dtype.itemsize, shape, all_, batch_size, shuffle,
                              stop_on_non_finite)

    def __dealloc__(self):
        del self.many

    def train(self, cnp.ndarray which, cnp.ndarray steps, list updates):
        cdef idx n = cnp.PyArray_DIM(which, 0)
        cdef vector[Update] what
        cdef cnp.ndarray outcomes = np.zeros((n, 2), np.int64)
        cdef const int64_t* members = <const int64_t*> data_of(which)
        cdef const int64_t* of_each = <const int64_t*> data_of(steps)
        cdef Outcome* to = <Outcome*> data_of(outcomes)
        what.reserve(n)
        for update in updates:
            what.push_back(update_of(update, self.optimizer_index, None))
        with nogil:
            self.many.train(n, members, of_each, what.data(), to)
        return outcomes[:, 0], outcomes[:, 1]

    def evaluate(self, cnp.ndarray which, cnp.ndarray X, cnp.ndarray y, weight, double total):
        cdef idx n = cnp.PyArray_DIM(which, 0)
        cdef Source x_source = source_of(X), y_source = source_of(y)
        cdef cbool y_is_label = cnp.PyArray_NDIM(y) == 1
        cdef const int64_t* members = <const int64_t*> data_of(which)
        cdef const double* weights = <const double*> data_or_null(weight)
        cdef cnp.ndarray losses = np.empty(n)
        cdef double* to = <double*> data_of(losses)
        with nogil:
            self.many.evaluate(n, members, x_source, y_source, y_is_label, weights, total, to)
        return losses

    def forward(self, cnp.ndarray which, cnp.ndarray X, cnp.ndarray out):
        cdef idx n = cnp.PyArray_DIM(which, 0)
        cdef Source source = source_of(X)
        cdef const int64_t* members = <const int64_t*> data_of(which)
        cdef void* to = data_of(out)
        with nogil:
            self.many.forward(n, members, source, to)


include "again.pyx"
include "ops.pyx"
