"""The dataset: the metadata table, its files, its figures, and contact sheets."""
