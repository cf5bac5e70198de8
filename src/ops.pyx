# Included by engine.pyx: `fastbp.ops` on arrays that need no other look than these checks, and the C API.

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New

cdef extern from "ops.hpp" namespace "fbp" nogil:
    cdef struct Place:
        const Isa* isa
        int n_threads
        cbool gated
    cdef struct LossOf:
        int row, itemsize
        idx rows, cols, targets, n_settings
        const void* z
        const void* t
        const int32_t* label
        const double* share
        const double* settings
        const double* output_weights
    double c_loss "fbp::loss"(const Isa& isa, const LossOf& of, void* grad) except +
    cdef struct Lies:
        char* data
        char* end
        idx ld
    cdef enum What:
        LINEAR, BACKWARD, UPDATE, SGD_UPDATE, ACTIVATION, ACTIVATION_BACKWARD
    cdef struct Call:
        int what, itemsize
        Place place
        idx rows, out
        idx in_ "in"
        cbool transposed
        int activation, optimizer
        Lies x, weight, bias, a, z, grad, grad_input, grad_weight, grad_bias
        double scalars[10]
        Lies slots[4]
        Lies bias_slots[4]
    void c_run "fbp::run"(const Call& call) except +


# ------------------------------------------------------------------ plain arrays

cdef bint is_apart(const Lies* a, const Lies* b) noexcept:
    return a.end <= b.data or b.end <= a.data


cdef int real_size(int type_num) noexcept:
    return 4 if type_num == cnp.NPY_FLOAT32 else 8 if type_num == cnp.NPY_FLOAT64 else 0


cdef inline int type_num_of(int itemsize) noexcept:
    return cnp.NPY_FLOAT32 if itemsize == 4 else cnp.NPY_FLOAT64


cdef bint matrix(a, const Call* c, idx rows, idx cols, bint written, Lies* to) noexcept:
    """Whether `a` is a native, aligned matrix of this type and shape whose rows lie one behind the other."""
    if type(a) is not cnp.ndarray:
        return False
    cdef cnp.ndarray m = a
    if cnp.PyArray_TYPE(m) != type_num_of(c.itemsize) or cnp.PyArray_NDIM(m) != 2 or not cnp.PyArray_ISBEHAVED_RO(m):
        return False
    if cnp.PyArray_DIM(m, 0) != rows or cnp.PyArray_DIM(m, 1) != cols or written and not cnp.PyArray_ISWRITEABLE(m):
        return False
    cdef idx itemsize = cnp.PyArray_ITEMSIZE(m), stride = cnp.PyArray_STRIDE(m, 0)
    if cols > 1 and cnp.PyArray_STRIDE(m, 1) != itemsize:
        return False
    if rows == 1:
        stride = cols * itemsize
    elif stride < cols * itemsize or stride % itemsize:
        return False
    to.data, to.ld = <char*> cnp.PyArray_DATA(m), stride // itemsize
    to.end = to.data + (rows - 1) * stride + cols * itemsize
    return True


cdef bint row(a, const Call* c, idx n, bint written, Lies* to) noexcept:
    """The same of a vector."""
    if type(a) is not cnp.ndarray:
        return False
    cdef cnp.ndarray v = a
    if (cnp.PyArray_TYPE(v) != type_num_of(c.itemsize) or cnp.PyArray_NDIM(v) != 1 or not cnp.PyArray_ISBEHAVED_RO(v)
            or cnp.PyArray_DIM(v, 0) != n or written and not cnp.PyArray_ISWRITEABLE(v)):
        return False
    if n > 1 and cnp.PyArray_STRIDE(v, 0) != cnp.PyArray_ITEMSIZE(v):
        return False
    to.data = <char*> cnp.PyArray_DATA(v)
    to.end = to.data + n * cnp.PyArray_ITEMSIZE(v)
    return True


cdef bint flat(a, Call* c, bint written, Lies* to) noexcept:
    """Whether `a` is a native, aligned, contiguous array of any shape, of c.rows elements unless that is -1."""
    if type(a) is not cnp.ndarray:
        return False
    cdef cnp.ndarray v = a
    if (cnp.PyArray_TYPE(v) != type_num_of(c.itemsize) or not cnp.PyArray_ISCARRAY_RO(v)
            or written and not cnp.PyArray_ISWRITEABLE(v) or c.rows >= 0 and cnp.PyArray_SIZE(v) != c.rows):
        return False
    c.rows = cnp.PyArray_SIZE(v)
    to.data = <char*> cnp.PyArray_DATA(v)
    to.end = to.data + cnp.PyArray_NBYTES(v)
    return True


cdef bint same_shape(cnp.ndarray a, b) noexcept:
    if type(b) is not cnp.ndarray or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(<cnp.ndarray> b):
        return False
    cdef int k
    for k in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, k) != cnp.PyArray_DIM(<cnp.ndarray> b, k):
            return False
    return True


cdef enum:
    NO_ROW = -2
    UNTIL_GIL = 50_000       # multiplications and additions of a call that keeps the GIL: about a microsecond


cdef cnp.ndarray empty_matrix(idx rows, idx cols, const Call* c, Lies* to):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = rows, cols
    cdef cnp.ndarray made = cnp.PyArray_EMPTY(2, shape, type_num_of(c.itemsize), 0)
    to.data, to.ld = <char*> cnp.PyArray_DATA(made), cols
    return made


cdef cnp.ndarray empty_like(cnp.ndarray a):
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a), 0)


cdef class Ops:
    """What `fastbp.ops` does with plain arrays while nothing else is forced than was when this was made.

    Each method takes the arguments of the function of its name, and gives its result, or None: nothing was done, and a
    longer look is due. Rows of the tables alone are known, by name or as they are.
    """

    cdef readonly Forced forced          # None: whatever is forced
    cdef Place place
    cdef object isa, threads
    cdef dict activations                # name or id of a row -> its place in the table, -1 for the identity
    cdef list keeps_z                    # by that place; the identity's is the last
    cdef dict optimizers                 # name of a row -> its place in the table
    cdef int sgd
    cdef double flops_of_threads         # from so many on threads may help
    # The optimizer met last, and its scalars for the steps first..end.
    cdef object optimizer, kept
    cdef int optimizer_row
    cdef tuple state
    cdef int itemsize                    # of the parameters that the scalars are for
    cdef idx first, end
    cdef vector[Scalar] scalars

    def __cinit__(self, Forced forced, isa, dict activations, list keeps_z, dict optimizers, threads, bint gated):
        self.forced, self.isa, self.threads = forced, isa, threads
        self.place.isa, self.place.gated, self.place.n_threads = find_isa(isa), gated, 1
        self.activations, self.keeps_z, self.optimizers = activations, keeps_z, optimizers
        self.sgd = optimizers["sgd"]
        self.flops_of_threads = 2 * C_FLOPS_OF_A_THREAD if gated else 0

    def still(self):
        """Whether what is forced is what it was."""
        return self.is_still()

    cdef bint is_still(self) except -1:
        return self.forced is None or self.forced.still()

    def for_one_call(self):
        """The same for a call that was looked at already: what other threads force or remember meanwhile is not seen."""
        return Ops(None, self.isa, self.activations, self.keeps_z, self.optimizers, self.threads, self.place.gated)

    cdef int activation_of(self, activation) except -3:
        found = self.activations.get(activation if type(activation) is str else <uintptr_t> <PyObject*> activation)
        return NO_ROW if found is None else found

    cdef bint layer(self, Call* c, x, weight, bias, activation, bint written) except -1:
        """Whether these are plain: the operands of a layer."""
        if type(weight) is not cnp.ndarray or type(x) is not cnp.ndarray:
            return False
        cdef cnp.ndarray w = weight
        c.itemsize = real_size(cnp.PyArray_TYPE(w))
        if c.itemsize == 0 or cnp.PyArray_NDIM(w) != 2 or cnp.PyArray_NDIM(<cnp.ndarray> x) != 2:
            return False
        c.rows, c.in_, c.out = cnp.PyArray_DIM(<cnp.ndarray> x, 0), cnp.PyArray_DIM(w, 0), cnp.PyArray_DIM(w, 1)
        if c.rows == 0 or c.in_ == 0 or c.out == 0 or not matrix(x, c, c.rows, c.in_, False, &c.x):
            return False
        if not self.laid_out(c, weight, written, &c.weight, &c.transposed):
            return False
        c.bias.data = NULL
        if bias is not None and not row(bias, c, c.out, written, &c.bias):
            return False
        c.activation = self.activation_of(activation)
        return c.activation != NO_ROW and self.is_still()

    cdef bint laid_out(self, const Call* c, array, bint written, Lies* to, cbool* transposed) except -1:
        """A matrix laid out as a weight may be: the rows of inputs, or of few outputs, one behind the other."""
        transposed[0] = False
        if matrix(array, c, c.in_, c.out, written, to):
            return True
        if c.out > 4 or type(array) is not cnp.ndarray:   # NARROW_OUTPUTS
            return False
        transposed[0] = True
        return matrix((<cnp.ndarray> array).T, c, c.out, c.in_, written, to)

    cdef int run(self, Call* c, double flops) except -1:
        c.place = self.place
        if flops >= self.flops_of_threads:
            c.place.n_threads = self.threads()
        if flops < UNTIL_GIL and c.place.n_threads == 1:
            c_run(c[0])
            return 0
        with nogil:
            c_run(c[0])
        return tell_of_refused()

    cdef int run_layer(self, Call* c) except -1:
        return self.run(c, 2.0 * c.rows * c.in_ * c.out)

    def linear(self, x, weight, bias, activation, out, out_z):
        cdef Call c
        if not self.layer(&c, x, weight, bias, activation, False):
            return None
        c.what = LINEAR
        c.z.data = NULL
        if out_z is not None:
            if not matrix(out_z, &c, c.rows, c.out, True, &c.z) or not is_apart(&c.z, &c.x):
                return None
            if not is_apart(&c.z, &c.weight) or bias is not None and not is_apart(&c.z, &c.bias):
                return None
        if out is None:
            out = empty_matrix(c.rows, c.out, &c, &c.a)
        else:
            if not matrix(out, &c, c.rows, c.out, True, &c.a) or not is_apart(&c.a, &c.x):
                return None
            if not is_apart(&c.a, &c.weight) or bias is not None and not is_apart(&c.a, &c.bias):
                return None
            if out_z is not None and not is_apart(&c.a, &c.z):
                return None
        self.run_layer(&c)
        return out

    cdef bint upstream(self, Call* c, grad_output, a, z) except -1:
        if not matrix(grad_output, c, c.rows, c.out, False, &c.grad):
            return False
        if not matrix(a, c, c.rows, c.out, False, &c.a):
            return False
        c.z.data = NULL
        if self.keeps_z[c.activation]:
            return z is not None and matrix(z, c, c.rows, c.out, False, &c.z)
        return z is None   # else it wants a look, to be refused where it is wrong

    def linear_backward(self, grad_output, a, x, weight, activation, z, out):
        cdef Call c
        cdef Lies* written[3]
        cdef Lies* read[5]
        if not self.layer(&c, x, weight, None, activation, False) or not self.upstream(&c, grad_output, a, z):
            return None
        c.what = BACKWARD
        if out is None:
            grad_input = empty_matrix(c.rows, c.in_, &c, &c.grad_input)
            grad_weight = empty_matrix(c.in_, c.out, &c, &c.grad_weight)
            grad_bias = empty_matrix(1, c.out, &c, &c.grad_bias)[0]
            self.run_layer(&c)
            return grad_input, grad_weight, grad_bias
        if type(out) is not tuple or len(out) != 3:
            return None
        grad_input, grad_weight, grad_bias = out
        if not (matrix(grad_input, &c, c.rows, c.in_, True, &c.grad_input)
                and matrix(grad_weight, &c, c.in_, c.out, True, &c.grad_weight)
                and row(grad_bias, &c, c.out, True, &c.grad_bias)):
            return None
        written[0], written[1], written[2] = &c.grad_input, &c.grad_weight, &c.grad_bias
        read[0], read[1], read[2], read[3], read[4] = &c.x, &c.weight, &c.grad, &c.a, &c.z
        if not all_apart(written, 3, read, 5):
            return None
        self.run_layer(&c)
        return out

    def remember(self, optimizer, row, tuple state, int itemsize, list scalars, idx first, idx end):
        """The scalars of an optimizer's row for the steps first..end, (end - first,) each."""
        cdef Scalar scalar
        cdef cnp.ndarray a
        self.optimizer = None
        self.scalars.clear()
        for a in scalars:
            scalar.data, scalar.stride = <const char*> cnp.PyArray_DATA(a), cnp.PyArray_STRIDE(a, 0)
            self.scalars.push_back(scalar)
        self.optimizer_row, self.state, self.kept = self.optimizers[row], state, scalars
        self.itemsize, self.first, self.end, self.optimizer = itemsize, first, end, optimizer

    cdef bint rule(self, Call* c, bias, optimizer, slots, step) except -1:
        cdef int k
        cdef cbool transposed
        cdef idx at
        for k in range(4):
            c.slots[k].data = c.bias_slots[k].data = NULL
        if type(step) is not int:
            return False
        if type(optimizer) is float:
            c.optimizer, c.scalars[0] = self.sgd, optimizer
            return (slots is None or type(slots) is dict and not slots) and 0 <= c.scalars[0] < HUGE_VAL and step >= 0
        if optimizer is None or optimizer is not self.optimizer or c.itemsize != self.itemsize:
            return False
        if not self.first <= step < self.end:
            return False
        at = step
        c.optimizer = self.optimizer_row
        for k in range(<int> self.scalars.size()):
            c.scalars[k] = (<const double*> (self.scalars[k].data + (at - self.first) * self.scalars[k].stride))[0]
        if not self.state:
            return slots is None or type(slots) is dict and not slots
        if type(slots) is not dict or len(slots) != len(self.state):
            return False
        for k in range(len(self.state)):
            pair = (<dict> slots).get(self.state[k])
            if type(pair) is not tuple or len(<tuple> pair) != 2:
                return False
            if (not self.laid_out(c, (<tuple> pair)[0], True, &c.slots[k], &transposed)
                    or c.slots[k].ld != c.weight.ld or transposed != c.transposed):
                return False
            if bias is not None and not row((<tuple> pair)[1], c, c.out, True, &c.bias_slots[k]):
                return False
        return True

    def linear_backward_update(self, grad_output, a, x, weight, bias, optimizer, activation, z, slots, step, out):
        cdef Call c
        cdef Lies* written[11]
        cdef Lies* read[4]
        cdef int n = 0, k
        if not self.layer(&c, x, weight, bias, activation, True) or not self.upstream(&c, grad_output, a, z):
            return None
        if not self.rule(&c, bias, optimizer, slots, step):
            return None
        c.what = UPDATE
        if out is not None and not matrix(out, &c, c.rows, c.in_, True, &c.grad_input):
            return None
        written[0], written[1] = &c.weight, &c.bias
        n = 2
        if out is not None:
            written[n] = &c.grad_input
            n += 1
        for k in range(4):
            if c.slots[k].data is not NULL:
                written[n], written[n + 1] = &c.slots[k], &c.bias_slots[k]
                n += 2
        read[0], read[1], read[2], read[3] = &c.x, &c.grad, &c.a, &c.z
        if not all_apart(written, n, read, 4):
            return None
        if out is None:
            out = empty_matrix(c.rows, c.in_, &c, &c.grad_input)
        self.run_layer(&c)
        return out

    cdef bint flat_layer(self, Call* c, array, activation, Lies* lies) except -1:
        """Whether this is plain: what an activation works on, of any shape."""
        if type(array) is not cnp.ndarray:
            return False
        c.itemsize, c.rows = real_size(cnp.PyArray_TYPE(<cnp.ndarray> array)), -1
        if c.itemsize == 0 or not flat(array, c, False, lies):
            return False
        c.activation = self.activation_of(activation)
        return c.activation != NO_ROW and self.is_still()

    def sgd_update(self, param, grad, lr, velocity):
        """Plain SGD alone; True where it was done."""
        cdef Call c
        cdef int k
        if velocity is not None or type(lr) is not float or not self.flat_layer(&c, param, "identity", &c.weight):
            return None
        c.what, c.optimizer, c.scalars[0] = SGD_UPDATE, self.sgd, lr
        if not (cnp.PyArray_ISWRITEABLE(<cnp.ndarray> param) and same_shape(param, grad)
                and flat(grad, &c, False, &c.grad) and is_apart(&c.weight, &c.grad)
                and 0 <= c.scalars[0] < HUGE_VAL):
            return None
        for k in range(4):
            c.slots[k].data = c.bias_slots[k].data = NULL
        self.run(&c, 2.0 * c.rows)
        return True

    def activation(self, z, activation, out):
        cdef Call c
        if not self.flat_layer(&c, z, activation, &c.z):
            return None
        c.what = ACTIVATION
        if out is None:
            out = empty_like(z)
        if not same_shape(z, out) or not flat(out, &c, True, &c.a):
            return None
        if c.a.data != c.z.data and not is_apart(&c.a, &c.z):
            return None
        self.run(&c, 32.0 * c.rows)   # or so
        return out

    def activation_backward(self, grad, a, activation, z, out):
        cdef Call c
        cdef Lies given
        if not self.flat_layer(&c, a, activation, &c.a):
            return None
        c.what = ACTIVATION_BACKWARD
        if not same_shape(a, grad) or not flat(grad, &c, False, &given):
            return None
        c.z.data = NULL
        if self.keeps_z[c.activation]:
            if z is None or not same_shape(a, z) or not flat(z, &c, False, &c.z):
                return None
        elif z is not None:   # it wants a look, to be refused where it is wrong
            return None
        if out is None:
            out = empty_like(a)
        if not same_shape(a, out) or not flat(out, &c, True, &c.grad) or not is_apart(&c.grad, &c.a):
            return None
        if c.z.data is not NULL and not is_apart(&c.grad, &c.z):
            return None
        if c.grad.data != given.data:
            if not is_apart(&c.grad, &given):
                return None
            memcpy(c.grad.data, given.data, given.end - given.data)
        self.run(&c, 16.0 * c.rows)
        return out

    def loss(self, int row, vector[double] settings, vector[double] output_weights, cnp.ndarray z, cnp.ndarray y,
             cnp.ndarray share, cnp.ndarray grad):
        """sum(share l) over rows; its derivative by z into `grad`.

        Everything was checked: z, y and grad are contiguous and of one dtype, labels (n,) int32; share is float64, with
        16 zeros behind the rows.
        """
        cdef LossOf of
        cdef bint is_label = cnp.PyArray_NDIM(y) == 1
        cdef void* to = data_of(grad)
        cdef double value
        of.row, of.itemsize = row, <int> cnp.PyArray_ITEMSIZE(z)
        of.rows, of.cols = cnp.PyArray_DIM(z, 0), cnp.PyArray_DIM(z, 1)
        of.targets = 0 if is_label else cnp.PyArray_DIM(y, 1)
        of.z, of.t, of.label = data_of(z), NULL if is_label else data_of(y), <const int32_t*> data_of(y)
        of.share = <const double*> data_of(share)
        of.settings, of.n_settings = settings.data(), <idx> settings.size()
        of.output_weights = output_weights.data() if output_weights.size() else NULL
        with nogil:
            value = c_loss(self.place.isa[0], of, to)
        return value


cdef bint all_apart(Lies** written, int n_written, Lies** read, int n_read) noexcept:
    """Whether what is written overlaps nothing of all these; those that are not there do not."""
    cdef int i, k
    for i in range(n_written):
        if written[i].data is NULL:
            continue
        for k in range(i + 1, n_written):
            if written[k].data is not NULL and not is_apart(written[i], written[k]):
                return False
        for k in range(n_read):
            if read[k].data is not NULL and not is_apart(written[i], read[k]):
                return False
    return True


# ------------------------------------------------------------------ the C API
#
# fastbp/_engine.pxd declares it. The kernels are the widest found, or those of FASTBP_ISA where that is one of them when
# this module is loaded.

cdef extern from "api.hpp" namespace "fbp::api" nogil:
    void api_use "fbp::api::use"(const Isa& isa)
    int api_activation "fbp::api::activation"(const char* name) noexcept
    cdef struct BoundNetwork "fbp::api::Network":
        CProgram* program
        int itemsize
        idx rows
        idx in_ "in"

cdef extern from *:
    """
    static fastbp_api fastbp_functions(PyObject* (*bind)(PyObject*, int64_t), void* (*network)(PyObject*)) {
      using namespace fbp::api;
      return {FASTBP_API_VERSION, fbp::api::activation, linear<float>, linear<double>, linear_backward<float>,
              linear_backward<double>, sgd_update<float>, sgd_update<double>, bind, network, predict<float>,
              predict<double>};
    }
    """
    fastbp_api fastbp_functions(object (*bind)(object, int64_t), void* (*network)(object) except NULL)


cdef class Bound:
    """A program of a network's for at most so many rows at a time, for the C API."""

    cdef Program program
    cdef BoundNetwork network

    def __cinit__(self, Program program):
        self.program = program
        self.network.program = program.program
        self.network.itemsize = <int> cnp.PyArray_ITEMSIZE(program.params)
        self.network.rows, self.network.in_ = program.plan.batch, program.plan.spec.in_features


cdef object api_bind(object net, int64_t rows):
    from fastbp.backends.layer import bound
    return bound(net, rows)


cdef void* api_network(object bound) except NULL:
    if type(bound) is not Bound:
        raise TypeError(f"network() takes what bind() gave, got {bound!r}")
    return &(<Bound> bound).network


def _widest_or_forced():
    cdef const char* name = getenv("FASTBP_ISA")
    forced = None if name is NULL else name.decode(errors="replace")
    return forced if forced in _found else _found[-1]


cdef fastbp_api _functions = fastbp_functions(api_bind, api_network)
api_use(find_isa(_widest_or_forced())[0])
api = PyCapsule_New(&_functions, "fastbp._engine.api", NULL)
