"""What the benchmarks share: one thread, in NumPy as in fastbp."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded
