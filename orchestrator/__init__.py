"""Sweeps: what to train (spec, plan), what is there (ledger), how one trial runs (trial), and two adapters around it.

`scheduling` is the only module that imports ray, `tracking` the only one that imports mlflow.
"""
