"""What tests have done in worker processes; a module that these load quickly."""

import os
import signal
import time
from pathlib import Path


def faulty(fault, folder, times, function, *arguments):
    """A task that first does `fault` in its worker, `times` times in all."""
    for k in range(times):
        try:
            os.close(os.open(Path(folder) / f"fault-{k}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "ended":
            os._exit(3)
        elif fault == "memory":
            raise MemoryError("no memory in this worker")
        elif fault == "hangs":
            time.sleep(60)
        elif fault == "late":
            answer = function(*arguments)
            time.sleep(2.5)
            return answer
    return function(*arguments)


def sound(function, *arguments):
    return function(*arguments)


def mean_of_outputs(y, outputs):
    return float(outputs.mean())


def poisoned(function, packed, *shared):
    sent = packed.networks.load()
    if 1 in sent["seeds"].tolist():
        os.kill(os.getpid(), signal.SIGKILL)
    return function(packed, *shared)


def slow(is_slow, function, *arguments):
    time.sleep(2 if is_slow else 0.01)
    return function(*arguments)
