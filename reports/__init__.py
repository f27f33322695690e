"""Turns records into tables: planned cells, published numbers, statistics and output formats."""

from dmf.machine.starting import starting

starting(__name__)
