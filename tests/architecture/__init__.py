"""The rules that the package's structure obeys. `make check` runs them."""
