"""Commands for a trained model: repair it, inspect its predictions, and export it to other programs."""
