"""Dashboards of Weights & Biases as code."""
