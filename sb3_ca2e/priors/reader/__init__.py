"""
Read what others have saved, without executing anything in it.

A model's zip, a ``vecnormalize.pkl`` and the RL Zoo's YAML hold pickles and tags that run code when they are loaded in
the usual way. Here they are decoded into plain values, and what is needed is rebuilt from tables of what is known.
"""
