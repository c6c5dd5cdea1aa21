"""The learner (Algorithm 3), in the user's process: commits transitions and updates networks."""
