"""Recipes: a TOML file of inputs and edits stands for the manifest that has a row for each pair."""
