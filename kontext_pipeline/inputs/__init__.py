"""Input pictures: where they come from, what a usable one is, and the store that keeps each of them once."""
