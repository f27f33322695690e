"""Import a configuration of LibFewShot: another name of `python -m orchestrator.import_config`, which has the options.

The importer writes sweep files, which belong to the orchestrator. Nothing here imports it, so the trainer stays usable
on its own.
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("orchestrator.import_config", run_name="__main__", alter_sys=True)
