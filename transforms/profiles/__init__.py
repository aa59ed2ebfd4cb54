"""How columns are distributed, how far a load is from earlier ones, and how each is judged."""
