"""Watching what is served: whether it is what training says, and how fresh it is."""
