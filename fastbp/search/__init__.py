"""Hyper-parameters tried on many networks at once."""
