"""Planning: manifests are read and checked, and become requests with seeds, batches and a price."""
