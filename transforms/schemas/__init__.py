"""One contract a relation: its columns, types, ranges and meaning, from which everything else is derived."""
