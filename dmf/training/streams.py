"""Streams of random numbers of a training: each step draws from a seed derived from (seed, stream, step)."""

BATCHES, AUGMENTATION, DROPOUT = range(3)
