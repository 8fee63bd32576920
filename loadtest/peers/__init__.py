"""What else one would put the same graph behind, each as its own documentation says: JPEG in, tokens out, on the same cores.

A peer is a module here, started in an environment of its own (build/peers/NAME, pinned in __main__.py), that answers POST /encode with
{"ids": [...]}; MLServer speaks its own V2 protocol. `python -m loadtest.peers` starts them in turns and measures.
"""
