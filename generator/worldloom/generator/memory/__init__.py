"""The 3D memory: frames with depth and cameras, which of them see a view, and how they look there.

One implementation for every engine (spec generation 3 to 5). Reading order: cache, retrieval,
warp (hard z-buffer, for `preview`); then exactly what Lyra 2.0 learnt: lyra_cache, unproject,
splat with its loops in splat_kernels, sources, correspondence and rays.
"""
