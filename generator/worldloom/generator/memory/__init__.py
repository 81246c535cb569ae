"""The 3D memory: frames with depth and cameras, which of them see a view, and how they look there.

One implementation for every engine (spec generation 3 to 5). Reading order: cache, retrieval,
warp (hard z-buffer, for `preview`), unproject, splat and rays (exactly what Lyra 2.0 learnt).
"""
