"""From a feature value to the records behind it, and back."""
