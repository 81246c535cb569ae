"""The robot's view: is a world navigable, what are its tasks, and how well are they done.

Reading order: world, robots, navgrid, observed, geodesic, episodes, dataset, usd_tasks (building);
sim_*, policies, run (driving); measures, stats, score, report (judging).
"""
