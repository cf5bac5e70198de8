"""The Numba backend: kernels compiled for the network at hand, loaded on first use.

`program` is the backend; `generate` writes a network's kernels as text, which calls `kernels` and `lanes` alone;
`cache` compiles it and keeps it on disk. `own_rows` compiles rows of the user's own for the C++ engine.
"""
