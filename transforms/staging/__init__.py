"""From raw rows to versions of records, and to quarantine with a reason."""
