"""From records to tables: planned cells, published numbers, statistics, and every output format."""
