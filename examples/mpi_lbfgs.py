"""L-BFGS by several processes: one network, each with its part of the rows, one Allreduce an evaluation.

The loss of all rows is the mean of the losses of the parts, and so is its gradient. So each process (a rank, in MPI's
words) takes `loss_and_grad` of its own rows, the ranks add these up, and SciPy's driver gets the same numbers on all of
them: it takes the same steps everywhere, and nothing else has to be sent. At the end rank 0 trains alone on all rows,
to see that the result is the same but for the order of sums.

Needs an MPI library, mpi4py, SciPy and scikit-learn (for the data). `-m mpi4py` ends all ranks where one fails:

    mpiexec -n 4 python -m mpi4py examples/mpi_lbfgs.py
"""

import sys
import time

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits

import fastbp

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:  # mpi4py is missing; or it is there, and the MPI library is not
    sys.exit(
        f"This example needs mpi4py and an MPI library ({error}).\n"
        "On Debian and Ubuntu: apt install openmpi-bin libopenmpi-dev; then: pip install mpi4py"
    )

DECAY, ITERATIONS = 1e-3, 50


def train(comm, X, y):
    """A network trained on the rows of all ranks together; X: (n, 64) and y: (n,) are those of this rank."""
    net = fastbp.MLP((64, 32, 10), activation="tanh", dtype=np.float64, seed=0)  # one seed: the same on every rank
    share = len(X) / comm.allreduce(len(X))
    total = np.empty(net.n_params + 1)  # the gradient, and the loss behind it: one message instead of two

    def evaluate(params):
        net.unflatten(params)
        loss, gradient = net.loss_and_grad(X, y, loss="softmax_cross_entropy")
        total[:-1], total[-1] = share * gradient, share * loss
        comm.Allreduce(MPI.IN_PLACE, total)
        return total[-1] + DECAY / 2 * params @ params, total[:-1] + DECAY * params

    found = minimize(evaluate, net.flatten(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    net.unflatten(found.x)
    return net, found


comm = MPI.COMM_WORLD
X, y = load_digits(return_X_y=True)
X = X / 16  # pixels from 0 to 1
mine = slice(comm.rank, None, comm.size)  # in earnest a rank reads its own rows, and no others

comm.Barrier()  # all have read their rows
began = time.perf_counter()
net, found = train(comm, X[mine], y[mine])
seconds = time.perf_counter() - began

assert len(set(comm.allgather(net.flatten().tobytes()))) == 1, "the ranks ended with different parameters"

if comm.rank == 0:
    alone, _ = train(MPI.COMM_SELF, X, y)
    off = np.abs(net.flatten() - alone.flatten()).max()

    def off_by_order(seed):
        """How far one process alone is off where its rows come in another order: sums are rounded differently."""
        order = np.random.default_rng(seed).permutation(len(X))
        return np.abs(train(MPI.COMM_SELF, X[order], y[order])[0].flatten() - alone.flatten()).max()

    allowed = 10 * max(map(off_by_order, range(3)))
    print(f"ranks: {comm.size}, rows: {len(X)}, parameters: {net.n_params}")
    print(f"loss {found.fun:.6f} after {found.nit} iterations and {found.nfev} evaluations, {seconds:.3f} seconds")
    print(f"right: {np.mean(net.predict(X).argmax(axis=1) == y):.4f} of the rows that it was trained on")
    print("all ranks ended with the same bits")
    print(f"largest difference from one process: {off:.1e}; another order of rows explains up to {allowed:.1e}")
    assert off <= allowed, "more than the order of sums explains"
