"""The driver's cost of a finished training with a store in an object store, by the number of rows in its mirror.

The driver fetches the training's records, and notes in the mirror's rows which objects they are copies of. The
benchmark measures the processor time of `BucketLedger.ended` over all threads, with an S3 server in another process.
The mirror has the rows of other trainings but not their files, which nothing reads.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import AVX512, Report, main, median
from dmf.values import digest
from orchestrator.store.bucket.copies import Copies, Copy
from orchestrator.store.bucket.mirror import RemoteStore
from orchestrator.store.ledger import BucketLedger
from tests.s3_server import ENVIRONMENT, s3_server, uri

ROWS = (1_000, 10_000, 100_000)
"""Rows in the mirror: one per file, three to five per training."""
ENDED = 20
AT_MOST = 0.05


def run(report: Report) -> None:
    """Processor seconds of the driver per finished training."""
    os.environ.update(ENVIRONMENT)
    for rows in ROWS:
        with TemporaryDirectory(prefix="bench-") as place, s3_server(Path(place)) as port:
            times = [seconds(Path(place), uri(port, "runs"), rows) for _ in range(report.settings.repeats)]
        report.claim(
            f"a training that has ended, {rows:,} rows", median(times), at_most=AT_MOST, unit=" s", seen=AVX512
        )


def seconds(room: Path, store: str, rows: int) -> float:
    """Processor seconds per training, averaged over `ENDED` trainings."""
    remote, worker = RemoteStore.at(store), room / "worker"
    ledger = BucketLedger(room / "mirror", remote)
    with Copies.of(ledger.store) as copies:
        others = {f"trainings/{digest(number)}/training.json": Copy(f'"{number:032}"', 1) for number in range(rows)}
        copies.change(others, [])
    keys = [digest(f"ended {number}") for number in range(ENDED)]
    for key in keys:
        names = [f"trainings/{key}/{name}" for name in ("config.json", "training.json", "evaluations/a.json")]
        for name in names:
            (worker / name).parent.mkdir(parents=True, exist_ok=True)
            (worker / name).write_bytes(b'"%s"' % os.urandom(10_000).hex().encode())
        remote.push(worker, names)
    begun = time.process_time()
    for key in keys:
        ledger.ended(key, failed=False)
    return (time.process_time() - begun) / ENDED


if __name__ == "__main__":
    sys.exit(main("mirror", run))
