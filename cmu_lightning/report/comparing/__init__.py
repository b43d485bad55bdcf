"""Which runs belong together, which of them count, and what they come to."""
