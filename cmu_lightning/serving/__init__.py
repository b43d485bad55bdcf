"""What finished runs are good for: predictions, and files for other programs."""
