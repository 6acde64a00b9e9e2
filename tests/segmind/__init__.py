"""The wire, against a real server on loopback that does exactly what a test scripts."""
