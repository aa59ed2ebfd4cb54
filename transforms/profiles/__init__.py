"""How columns are spread, how far a load is from those before, and whether it was read wrongly."""
