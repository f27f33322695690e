"""What is fast here, measured: one file per subject, each `python -m benchmarks.SUBJECT [--json] [--short]`."""
