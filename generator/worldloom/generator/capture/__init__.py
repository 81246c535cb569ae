"""A posed walkthrough -> the frames of a world: engine `capture` (architecture page 3.3).

Reading order: child, archive, level, rgb_depth, model, opening; readers.
"""
