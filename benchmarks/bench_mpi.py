"""One network on several ranks of one machine: what a step takes, and what of it is the Allreduce.

    mpiexec -n 2 python -m mpi4py benchmarks/bench_mpi.py

prints the lines of docs/mpi.md for so many ranks. Each rank has one thread. First the ranks train together and must end
with the same bits, and with the parameters of one process but for rounding. Then rounds: the slowest rank of a round
counts, by the clock, since a rank that waits in MPI uses its core as well; and of the rounds the best and the median.
"""

import os
import statistics
import time

if __name__ == "__main__":  # before NumPy is loaded
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

import fastbp

LOSS = "softmax_cross_entropy"
# sizes, rows of a step (of all ranks together)
LINES = [((8, 64, 64, 4), 256), ((8, 64, 64, 4), 4096), ((784, 128, 10), 256), ((784, 512, 512, 10), 128)]
ROUND_SECONDS, SECONDS = 0.002, 3.0  # short rounds: some of them are met by nothing else that the machine does


def data_of(sizes, rows):
    rng = np.random.default_rng(0)
    return rng.random((rows, sizes[0]), dtype=np.float32), rng.integers(0, sizes[-1], rows)


def stepper(comm, MPI, sizes, rows):
    """(the network, a step on this rank's part of all rows, the Allreduce alone)."""
    net, optimizer = fastbp.MLP(sizes, activation="relu", seed=0), fastbp.SGD(lr=0.01)
    X, y = (np.ascontiguousarray(part[comm.rank :: comm.size]) for part in data_of(sizes, rows))
    share = np.float32(len(X) / rows)

    def step():
        _, grad_output = fastbp.ops.loss(LOSS, net.forward(X), y)
        net.backward(grad_output * share)
        comm.Allreduce(MPI.IN_PLACE, net.grads)
        net.update(optimizer)

    zeros = np.zeros_like(net.grads)
    return net, step, lambda: comm.Allreduce(MPI.IN_PLACE, zeros)


def check(comm, MPI, sizes, rows):
    """Three steps are the same on all ranks, and within rounding those of one process."""
    found = []
    for of in (comm, MPI.COMM_SELF):
        net, step, _ = stepper(of, MPI, sizes, rows)
        for _ in range(3):
            step()
        found.append(net.flatten())
    if len(set(comm.allgather(found[0].tobytes()))) != 1 or np.abs(found[0] - found[1]).max() > 1e-5:
        raise ArithmeticError(f"{sizes}, {rows} rows: not the network of one process")


def seconds_of(comm, MPI, call):
    """The best and the median of rounds, for one call, on the slowest rank."""
    began = time.perf_counter()
    for _ in range(3):
        call()
    n = comm.bcast(max(1, int(ROUND_SECONDS / ((time.perf_counter() - began) / 3))))
    times = []
    until = time.perf_counter() + SECONDS
    while comm.bcast(time.perf_counter() < until):
        comm.Barrier()
        began = time.perf_counter()
        for _ in range(n):
            call()
        times.append(comm.allreduce((time.perf_counter() - began) / n, op=MPI.MAX))
    return min(times), statistics.median(times)


def main():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    for sizes, rows in LINES:
        check(comm, MPI, sizes, rows)
        net, step, reduce = stepper(comm, MPI, sizes, rows)
        (best, median), (message, _) = (seconds_of(comm, MPI, call) for call in (step, reduce))
        if comm.rank == 0:
            name, kilobytes = "-".join(map(str, sizes)), net.grads.nbytes / 1e3
            print(f"| {name} | {rows:,} | {comm.size} | {best * 1e6:,.0f} | {median * 1e6:,.0f} "
                  f"| {kilobytes:,.0f} | {message * 1e6:,.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
