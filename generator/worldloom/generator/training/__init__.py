"""Training: clips with depth and cameras -> a video transformer that continues them (spec 8).

Reading order: `flow` (what is learnt), `draws` (where chance comes from), `clip` (what is learnt
from), `data` and `truth` (where clips come from), `memory` and `sample` (a clip -> one sample),
`augment` (histories of the model's own making), `train` (the loop), `distill` (four steps).
"""
