"""Runs: identity, execution, stored results, originals, and Weights & Biases."""
