"""The pictures the sandbox answers with: drawn by Pillow alone, the same bytes for the same request."""
