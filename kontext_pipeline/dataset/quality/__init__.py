"""Quality: numbers measured from pictures, named issues that follow from the numbers, near-duplicates and input groups."""
