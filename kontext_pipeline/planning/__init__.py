"""Planning: manifests are read and checked, and become requests with seeds, fingerprints, batches and a price."""
