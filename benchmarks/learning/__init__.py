"""Learning curves of CA2E and of SB3's algorithms, their scores and their figures."""
