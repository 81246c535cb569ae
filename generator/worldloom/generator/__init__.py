"""The model: a request becomes frames, splats, a surface and USD layers.

Reading order is the data flow: engines, photo, depth/, seed, memory/, video/, splats/, surface/,
layers/, pipeline. It knows nothing of gRPC or of the store; it raises only scene.errors.
"""
