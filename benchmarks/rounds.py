"""The timer of the speed bars: calls that take turns, so that what the machine does meanwhile meets them all."""

import statistics
import time


def seconds_of(rounds, calls, clock=time.process_time):
    """The seconds that each of some calls, given by name, takes in each of so many rounds: name -> list."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return times


def best_of(rounds, calls, clock=time.process_time):
    """The shortest of each call's times: name -> seconds."""
    return {name: min(found) for name, found in seconds_of(rounds, calls, clock).items()}


def median_ratio(times, name, base):
    """How many times as long as `base` a call takes: the median over the rounds.

    What slows a machine down for a while slows both calls of a round: this holds where the shortest times do not.
    """
    return statistics.median(a / b for a, b in zip(times[name], times[base]))
