"""The review: decisions about pictures, and the page on which they are made."""
