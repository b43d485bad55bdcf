"""`python -m cmu_lightning report`: from a runs folder to figures, tables and one page."""
