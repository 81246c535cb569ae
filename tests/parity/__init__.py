"""Numbers of the public reference against ours: `python -m tests.parity DIR`."""
