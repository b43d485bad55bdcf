"""Weights & Biases: whether it is used, what is sent there, and what happens when it does not answer."""
