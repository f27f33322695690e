"""A training's streams of random numbers: each step draws from a seed derived from (seed, stream, step)."""

BATCHES, AUGMENTATION, DROPOUT, MIXING = range(4)
