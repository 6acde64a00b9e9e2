"""The lock: what every row of a dataset is made of and gave, in one text file, and its comparison with the disk."""
