"""Features of a text alone, one family a file: Polars expressions, no Python per row."""
