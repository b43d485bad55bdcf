"""What users do with a model: repair it, look at its predictions, and export it to other programs."""
