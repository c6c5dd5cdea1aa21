"""
Reads files from others without executing anything in them.

A model's zip, a ``vecnormalize.pkl`` and the RL Zoo's YAML contain pickles and tags that run code when loaded the usual
way. Here they are decoded into plain values, and the parts that are needed are rebuilt from tables of known classes.
"""
