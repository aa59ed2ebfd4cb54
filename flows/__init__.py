"""When, and in what order: the stages, the Prefect flow around them, the command line.

Belongs here: what reads, calls a transform, publishes. Does not: SQL, column logic, Feast
internals.
"""
