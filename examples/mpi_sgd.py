"""SGD by several processes: one network learns on large batches, in two ways of keeping the ranks together.

By gradients: every rank (a process, in MPI's words) takes its part of each batch, the ranks add up their gradients,
and each makes the same update. That is one Allreduce a step, and the result of one process but for the order of sums.
By averages: each rank trains for some steps on its own rows, then the ranks average their parameters. That is another
algorithm, with far less to send; here it learns the digits as well.

Needs an MPI library, mpi4py and scikit-learn (for the data). `-m mpi4py` ends all ranks where one fails:

    mpiexec -n 4 python -m mpi4py examples/mpi_sgd.py
"""

import sys
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastbp

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:  # mpi4py is missing; or it is there, and the MPI library is not
    sys.exit(
        f"This example needs mpi4py and an MPI library ({error}).\n"
        "On Debian and Ubuntu: apt install openmpi-bin libopenmpi-dev; then: pip install mpi4py"
    )

LOSS = "softmax_cross_entropy"
BATCH, EPOCHS = 256, 60  # rows of a batch, of all ranks together
EVERY, ROUNDS = 20, 30  # steps between two averages


def network():
    return fastbp.MLP((64, 128, 64, 10), activation="tanh", seed=0)  # the same on every rank


def by_gradients(comm, X, y, within=None):
    """One Allreduce of the gradient for each batch; a generator `within` puts the rows of a batch in another order."""
    net, optimizer = network(), fastbp.SGD(lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)  # one seed: every rank draws the same batches
    for _ in range(EPOCHS):
        order = rng.permutation(len(X))
        for start in range(0, len(X) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH][comm.rank :: comm.size]
            if within is not None:
                within.shuffle(rows)
            _, grad_output = fastbp.ops.loss(LOSS, net.forward(X[rows]), y[rows])
            net.backward(grad_output * np.float32(len(rows) / BATCH))  # means of parts become the mean of the batch
            comm.Allreduce(MPI.IN_PLACE, net.grads)  # one buffer of all layers, where `update` reads it
            net.update(optimizer)
    return net


def by_averages(comm, X, y):
    """Each rank runs `fit` on its own rows; an Allreduce of the parameters for every `EVERY` steps."""
    net, optimizer = network(), fastbp.SGD(lr=0.1)
    mine = slice(comm.rank, None, comm.size)
    for _ in range(ROUNDS):
        net.fit(X[mine], y[mine], loss=LOSS, optimizer=optimizer, batch_size=BATCH // comm.size, steps=EVERY)
        params = net.flatten()
        comm.Allreduce(MPI.IN_PLACE, params)
        net.unflatten(params / comm.size)
    return net


comm = MPI.COMM_WORLD
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)  # pixels from 0 to 1
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
if comm.rank == 0:
    print(f"ranks: {comm.size}, rows: {len(X_train)}, parameters: {network().n_params}")

trained = {}
for way, messages in ((by_gradients, EPOCHS * (len(X_train) // BATCH)), (by_averages, ROUNDS)):
    comm.Barrier()  # all have come here
    began = time.perf_counter()
    net = trained[way] = way(comm, X_train, y_train)
    seconds = time.perf_counter() - began
    assert len(set(comm.allgather(net.flatten().tobytes()))) == 1, "the ranks ended with different parameters"
    if comm.rank == 0:
        accuracy = np.mean(net.predict(X_test).argmax(axis=1) == y_test)
        print(f"{way.__name__}: {messages} Allreduces, {seconds:.3f} seconds, test accuracy {accuracy:.4f}")
        assert accuracy > 0.95

if comm.rank == 0:
    print("all ranks ended with the same bits, in both ways")
    alone = by_gradients(MPI.COMM_SELF, X_train, y_train).flatten()

    def off_by_order(seed):
        """How far one process is off where the rows of each batch are added up in another order."""
        turned = by_gradients(MPI.COMM_SELF, X_train, y_train, np.random.default_rng(seed))
        return np.abs(turned.flatten() - alone).max()

    off, allowed = np.abs(trained[by_gradients].flatten() - alone).max(), 10 * max(map(off_by_order, range(3)))
    print(f"largest difference from one process: {off:.1e}; another order of rows explains up to {allowed:.1e}")
    assert off <= allowed, "more than the order of sums explains"
