"""The timer of the speed bars: calls that take turns, so that what the machine does meanwhile meets them all."""

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
