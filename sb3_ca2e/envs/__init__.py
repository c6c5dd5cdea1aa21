"""From the user's environment to the actors' environments."""
