"""What changed between two sources of records: cell by cell, and tested."""
