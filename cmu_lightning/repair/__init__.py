"""From an original and a list of flagged samples to the best of what the methods make of it."""
