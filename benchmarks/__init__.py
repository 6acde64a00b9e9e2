"""What the pipeline costs in time, processor and memory, measured against a bare thread pool and the ideal."""
