"""Turns records into tables: planned cells, published numbers, statistics and output formats."""
