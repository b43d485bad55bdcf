"""What there is: runs, their configs and what they measured."""
