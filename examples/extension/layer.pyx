# cython: language_level=3, boundscheck=False
"""An extension module that calls fastbp's kernels from compiled code: no Python object is touched between two steps."""

from fastbp._engine cimport fastbp_api, import_fastbp
from libc.stdint cimport int64_t

cdef const fastbp_api* fbp = import_fastbp()   # checks the version


def train(double[:, ::1] X, double[:, ::1] y, double[:, ::1] weight, double[::1] bias, double lr, int64_t steps):
    """Steps of gradient descent on tanh(X @ weight + bias), with half the mean of squared errors; gives the last loss."""
    cdef int64_t n = X.shape[0], n_in = X.shape[1], n_out = weight.shape[1]
    if y.shape[0] != n or y.shape[1] != n_out or weight.shape[0] != n_in or bias.shape[0] != n_out or n == 0:
        raise ValueError("shapes: X (n, n_in), y (n, n_out), weight (n_in, n_out), bias (n_out,)")
    cdef double[:, ::1] a = y.copy(), grad = y.copy(), grad_input = X.copy(), grad_weight = weight.copy()
    cdef double[::1] grad_bias = bias.copy()
    cdef int tanh = fbp.activation("tanh"), failed = 0
    cdef double loss = 0
    cdef int64_t i, j
    with nogil:
        for _ in range(steps):
            failed = fbp.linear_double(n, n_in, n_out, &X[0, 0], n_in, &weight[0, 0], n_out, &bias[0], tanh, NULL, 0,
                                       &a[0, 0], n_out)
            if failed:
                break
            loss = 0
            for i in range(n):
                for j in range(n_out):
                    grad[i, j] = (a[i, j] - y[i, j]) / n
                    loss += 0.5 * (a[i, j] - y[i, j]) ** 2 / n
            failed = fbp.linear_backward_double(n, n_in, n_out, &grad[0, 0], n_out, &a[0, 0], n_out, NULL, 0, &X[0, 0],
                                                n_in, &weight[0, 0], n_out, tanh, &grad_input[0, 0], n_in,
                                                &grad_weight[0, 0], n_out, &grad_bias[0])
            if failed:
                break
            fbp.sgd_update_double(n_in * n_out, &weight[0, 0], &grad_weight[0, 0], lr, 0, 0, 0, NULL)
            fbp.sgd_update_double(n_out, &bias[0], &grad_bias[0], lr, 0, 0, 0, NULL)
    if failed:
        raise MemoryError("fastbp found no memory") if failed == -1 else ValueError("fastbp refused its arguments")
    return loss


cdef class Policy:
    """A `fastbp.MLP` of float32 that is asked from a loop without the GIL."""

    cdef object bound        # keeps the network's program
    cdef void* network
    cdef int64_t n_in, n_out

    def __init__(self, net):
        self.bound = fbp.bind(net, 1)   # for one row at a time
        self.network = fbp.network(self.bound)
        self.n_in, self.n_out = net.sizes[0], net.sizes[-1]

    def rollout(self, float[::1] state, float[:, ::1] outputs):
        """Each output is the next state; they go into `outputs`, (steps, n)."""
        if self.n_in != self.n_out or state.shape[0] != self.n_in or outputs.shape[1] != self.n_out or not len(outputs):
            raise ValueError("state must be (n,) and outputs (steps, n), of a network from n to n")
        cdef int64_t step, steps = outputs.shape[0]
        cdef int failed = 0
        cdef const float* x = &state[0]
        cdef float* to = &outputs[0, 0]
        with nogil:
            for step in range(steps):
                failed = fbp.predict_float(self.network, 1, x, self.n_in, to)
                if failed:
                    break
                x = to
                to += self.n_out
        if failed:
            raise ValueError("fastbp refused its arguments: is the network of float32?")
