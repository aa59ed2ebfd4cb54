"""Compacting and vacuuming tables, and erasing rows from them."""
