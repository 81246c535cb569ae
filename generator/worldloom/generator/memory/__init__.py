"""The 3D memory: frames with depth and cameras, which of them see a view, and how they look there.

One implementation for every engine (spec generation 3 and 4). Reading order: cache, retrieval,
warp.
"""
