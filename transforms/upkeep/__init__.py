"""Merging, deleting and erasing what the tables hold."""
