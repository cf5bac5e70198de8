# cython: language_level=3
"""The C API of fastbp, for extension modules: a struct of functions in the capsule ``fastbp._engine.api``.

``import_fastbp()`` gives it, once its version is the one that the module was compiled for. See docs/c_api.md.
"""

from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int64_t

# The text between the quotes is C, and all that a module in C or C++ needs beside <Python.h>.
cdef extern from *:
    """
    #ifndef FASTBP_API_VERSION
    #define FASTBP_API_VERSION 1
    #include <stdint.h>
    typedef struct {
      int version;   /* FASTBP_API_VERSION; always the first member */
      /* The row of an activation, "relu" and the like, or -2: there is none of this name. -1 is the identity. */
      int (*activation)(const char* name);
      int (*linear_float)(int64_t rows, int64_t in, int64_t out, const float* x, int64_t ldx, const float* weight,
                          int64_t ldw, const float* bias, int activation, float* z, int64_t ldz, float* a, int64_t lda);
      int (*linear_double)(int64_t rows, int64_t in, int64_t out, const double* x, int64_t ldx, const double* weight,
                           int64_t ldw, const double* bias, int activation, double* z, int64_t ldz, double* a,
                           int64_t lda);
      int (*linear_backward_float)(int64_t rows, int64_t in, int64_t out, const float* grad_output, int64_t ldg,
                                   const float* a, int64_t lda, const float* z, int64_t ldz, const float* x,
                                   int64_t ldx, const float* weight, int64_t ldw, int activation, float* grad_input,
                                   int64_t ldi, float* grad_weight, int64_t ldgw, float* grad_bias);
      int (*linear_backward_double)(int64_t rows, int64_t in, int64_t out, const double* grad_output, int64_t ldg,
                                    const double* a, int64_t lda, const double* z, int64_t ldz, const double* x,
                                    int64_t ldx, const double* weight, int64_t ldw, int activation,
                                    double* grad_input, int64_t ldi, double* grad_weight, int64_t ldgw,
                                    double* grad_bias);
      int (*sgd_update_float)(int64_t n, float* param, const float* grad, double lr, double momentum, int nesterov,
                              double weight_decay, float* velocity);
      int (*sgd_update_double)(int64_t n, double* param, const double* grad, double lr, double momentum, int nesterov,
                               double weight_decay, double* velocity);
      /* Of a fastbp.MLP, for at most so many rows at a time: a new reference, or NULL with an exception set. */
      PyObject* (*bind)(PyObject* net, int64_t rows);
      /* What the next two take; valid as long as the object that `bind` gave. NULL with an exception set. */
      void* (*network)(PyObject* bound);
      int (*predict_float)(void* network, int64_t rows, const float* x, int64_t ldx, float* out);
      int (*predict_double)(void* network, int64_t rows, const double* x, int64_t ldx, double* out);
    } fastbp_api;
    #endif
    """
    int FASTBP_API_VERSION
    ctypedef struct fastbp_api:
        int version
        int (*activation)(const char* name) noexcept nogil
        int (*linear_float)(
            int64_t rows, int64_t in_, int64_t out, const float* x, int64_t ldx, const float* weight, int64_t ldw,
            const float* bias, int activation, float* z, int64_t ldz, float* a, int64_t lda) noexcept nogil
        int (*linear_double)(
            int64_t rows, int64_t in_, int64_t out, const double* x, int64_t ldx, const double* weight, int64_t ldw,
            const double* bias, int activation, double* z, int64_t ldz, double* a, int64_t lda) noexcept nogil
        int (*linear_backward_float)(
            int64_t rows, int64_t in_, int64_t out, const float* grad_output, int64_t ldg, const float* a, int64_t lda,
            const float* z, int64_t ldz, const float* x, int64_t ldx, const float* weight, int64_t ldw, int activation,
            float* grad_input, int64_t ldi, float* grad_weight, int64_t ldgw, float* grad_bias) noexcept nogil
        int (*linear_backward_double)(
            int64_t rows, int64_t in_, int64_t out, const double* grad_output, int64_t ldg, const double* a,
            int64_t lda, const double* z, int64_t ldz, const double* x, int64_t ldx, const double* weight, int64_t ldw,
            int activation, double* grad_input, int64_t ldi, double* grad_weight, int64_t ldgw,
            double* grad_bias) noexcept nogil
        int (*sgd_update_float)(
            int64_t n, float* param, const float* grad, double lr, double momentum, int nesterov, double weight_decay,
            float* velocity) noexcept nogil
        int (*sgd_update_double)(
            int64_t n, double* param, const double* grad, double lr, double momentum, int nesterov,
            double weight_decay, double* velocity) noexcept nogil
        object (*bind)(object net, int64_t rows)
        void* (*network)(object bound) except NULL
        int (*predict_float)(void* network, int64_t rows, const float* x, int64_t ldx, float* out) noexcept nogil
        int (*predict_double)(void* network, int64_t rows, const double* x, int64_t ldx, double* out) noexcept nogil


cdef extern from "Python.h":
    object PyImport_ImportModule(const char* name)


cdef inline const fastbp_api* import_fastbp() except NULL:
    """The functions, which live as long as the process. ImportError: fastbp has none, or those of another version."""
    PyImport_ImportModule("fastbp._engine")   # where the next line looks
    cdef const fastbp_api* api = <const fastbp_api*> PyCapsule_Import("fastbp._engine.api", 0)
    if api.version != FASTBP_API_VERSION:
        raise ImportError(f"this module was compiled for version {FASTBP_API_VERSION} of fastbp's C API, and the fastbp "
                          f"that is installed has version {api.version}: build this module again")
    return api
