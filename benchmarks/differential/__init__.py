"""The same program under SB3 and under sb3_ca2e, and what differs."""
