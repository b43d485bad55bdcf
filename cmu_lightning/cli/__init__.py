"""The commands `fit` and `test`."""
