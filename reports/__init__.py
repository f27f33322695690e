"""From records to tables: which cells there are, what was published, what ours say, and how it is printed."""
