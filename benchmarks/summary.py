"""The claims of all benchmarks in one table: `python -m benchmarks.summary results/benchmarks/*.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.harness import aligned, number


def rows(reports: list[dict]) -> list[dict[str, str]]:
    """One row per claim in reports that `harness.main` wrote."""
    found = [
        {
            "subject": report["subject"],
            "claim": claim["name"],
            "measured": number(float(claim["measured"])) + claim.get("unit", ""),
            "bound": f"at least {number(claim['at_least'])}"
            if "at_least" in claim
            else f"at most {number(claim['at_most'])}",
            "": "holds" if claim["holds"] else "MISSED",
            "seen on": claim["seen"],
        }
        for report in reports
        for claim in report["claims"]
    ]
    skipped = [
        {"subject": report["subject"], "claim": name, "": "not applicable here"}
        for report in reports
        for name in report["not applicable"]
    ]
    return found + skipped


def main(argv: list[str] | None = None) -> int:
    """Print the table. Returns 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="file that a benchmark's --output wrote")
    try:
        reports = [json.loads(file.read_text()) for file in parser.parse_args(argv).files]
    except (OSError, ValueError) as error:
        print(f"error: {error}; `make bench` writes such files", file=sys.stderr)
        return 2
    print("\n".join(aligned(rows(reports))))
    print("\nmeasured on: " + ", ".join(dict.fromkeys(report["machine"]["class"] for report in reports)))
    print(f"measured in {sum(report['seconds'] for report in reports) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
