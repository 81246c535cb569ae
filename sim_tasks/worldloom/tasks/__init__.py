"""The robot's view: is a world navigable, what are its tasks, and how well are they done.

Reading order: world, robots, levels, heightfield, ground, observed, navgrid, sightlines,
geodesic, episodes, dataset, usd_tasks, navmesh, rosmap, navreport (building);
sim_*, policies, run (driving);
measures, stats, score, report (judging).
"""
