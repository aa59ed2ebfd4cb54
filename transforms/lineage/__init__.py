"""From a value to the records behind it, and back."""
