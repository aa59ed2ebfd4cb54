"""What is computed of records, and how."""
