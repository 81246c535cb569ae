"""Where cameras, windows and the world stand to each other: similarities, graph, gravity, scale.

Layers: similarity -> umeyama -> edges, loop -> graph, select; floor planes -> gravity -> scale.
Nothing here needs torch; frames in, poses and evidence out.
"""
