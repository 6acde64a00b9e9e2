"""What a user takes away: the metadata table, and what is shown of it.

Knows Arrow tables and paths, and nothing of ours but `errors`.
"""
