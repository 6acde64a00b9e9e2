"""From requests to generations: the ledger, the image store and the loop between them."""
