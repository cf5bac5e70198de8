"""A speed bar: saving 10 million parameters takes at most twice as long as writing their bytes and syncing them.

Interleaved, on the disk of the system's temporary files (`--basetemp=FOLDER` for another). Both put a file in the place
of another. A save adds to it: gathering the parameters, SHA-256 over them all, a rename and a synced folder.
"""

import os
import statistics
import time

from rounds import seconds_of

import fastbp

SIZES = (1000, 3000, 2000, 500, 10)  # 10 million parameters
ROUNDS, ALLOWED = 15, 2.0


def test_a_save_takes_at_most_twice_as_long_as_its_bytes(tmp_path, capsys):
    net = fastbp.MLP(SIZES, seed=0)
    assert 10e6 <= net.n_params < 10.1e6
    saved, plain = tmp_path / "saved", tmp_path / "plain"
    net.save(saved)
    content = saved.read_bytes()

    def write():
        with open(plain, "wb", buffering=0) as file:
            assert file.write(content) == len(content)
            os.fsync(file.fileno())

    def load():
        return fastbp.load(saved)

    calls = {"write": write, "save": lambda: net.save(saved), "load": load}
    times = seconds_of(ROUNDS + 1, calls, time.perf_counter)
    median = {name: statistics.median(found[1:]) * 1e3 for name, found in times.items()}
    ratio = median["save"] / median["write"]
    with capsys.disabled():
        told = ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in median.items())
        print(f"\n{len(content) / 1e6:.0f} MB: {told}; save / write {ratio:.2f}", end=" ")
    assert load().flatten().tobytes() == net.flatten().tobytes()
    assert ratio <= ALLOWED
