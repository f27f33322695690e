"""Runs `python -m reports.figures`."""

import sys

from dmf.machine.output import run
from reports.figures.command import main

sys.exit(run(main))
