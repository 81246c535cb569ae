"""Lyra 2.0: photo, cameras and prompts -> a long video with a 3D memory (spec generation).

Reading order: config, tokens, layers, dit, vae, clip, text, sampler, distilled, conditioning,
loop. Inside this folder the released networks' own conventions hold: OpenCV cameras as world to
camera, integer pixel centres, videos [B 3 T H W] in -1..1, latents [B 16 t h w].
"""
