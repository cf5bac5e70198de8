"""A run of `fit`: the state that it moves on, chunks of steps, snapshots, and what waits meanwhile.

It is handed a program, arrays and a state, and knows no network.
"""
