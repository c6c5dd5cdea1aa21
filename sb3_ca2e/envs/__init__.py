"""From the user's environment to those of the actors."""
