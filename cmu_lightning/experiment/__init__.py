"""Runs: their identity, how they are made, what they leave, and Weights & Biases."""
