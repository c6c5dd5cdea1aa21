"""Between the learner and its actors: one folder or file for each way in which they can be run."""
