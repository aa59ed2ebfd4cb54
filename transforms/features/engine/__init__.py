"""How each kind of feature view is computed."""
