"""The measuring stick: analytic places with exact colour, depth and surface.

Reading order: `solids` (shapes), `scene` (files), `cast` (rays), `texture`, `render`, `surface`
(the mesh), `walk` (cameras), `noise`, `model` and `opening` (the engine), `photos`, `measure`.
"""
