"""`python -m cmu_lightning fit` and `test`."""
