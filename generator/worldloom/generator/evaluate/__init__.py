"""A world, and what it should look like -> the numbers of the evaluation protocol.

Metrics know no command line and no world: arrays in, numbers out. Definitions and sources are in
docs/evaluation.md.
"""
