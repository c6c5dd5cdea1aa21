"""The learner (Algorithm 3), in the user's process: transitions are committed, networks are updated."""
