"""The benchmark, ``python -m fastbp bench``: workloads and contenders, checked and then timed; figures of it."""
