"""A manifest goes in, a dataset comes out, and every image that was paid for is kept, once."""
