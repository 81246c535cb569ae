"""The command `worldloom`: a thin table of subcommands, each loaded only when it is called.

It owns what spans packages: generate, demo, bench, doctor. Reading order: main, console, then the
command that you are after.
"""
