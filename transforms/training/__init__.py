"""Training sets from a question: rows, labels, splits. Joining features to them is Feast's part."""
