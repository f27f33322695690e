"""Runs `python -m reports.figures`."""

import sys

from reports.figures.command import main

sys.exit(main())
