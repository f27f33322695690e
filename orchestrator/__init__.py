"""Sweeps: what to train (spec, plan), what is there (ledger), how one trial runs (trial), and adapters around it.

Ray is imported by `cluster`, `worker` and `scheduling` only, MLflow by `mlflow_server` only, obstore by `objects` only.
"""
