"""Image folders, data sets, labels, and generated scenes with known truth."""
