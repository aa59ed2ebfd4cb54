"""Delta tables in the home, and the one way rows get in."""
