"""Rows: what an activation, a loss and an optimizer are, and the language in which they state their mathematics.

A row of a table states its mathematics once, as expressions whose text means the same in Python and in C++.
"""

from fastbp.rows.kinds import ANY, Activation, Domain, Loss, Optimizer, Setting, digest
from fastbp.rows.vocabulary import VOCABULARY, WORDS, Words, evaluated, function, n_arguments, over_arrays, render

__all__ = [
    "ANY", "VOCABULARY", "WORDS", "Activation", "Domain", "Loss", "Optimizer", "Setting", "Words", "digest",
    "evaluated", "function", "n_arguments", "over_arrays", "render",
]  # fmt: skip
