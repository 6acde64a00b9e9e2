"""What each `kontext` command does, says and asks. `cli.py` has their options."""
