"""Other serving frameworks with the same graph, each set up as its documentation recommends.

A peer is a module here, run in its own environment (build/peers/NAME, pinned in __main__.py). It
answers POST /encode (JPEG) with {"ids": [...]}; MLServer speaks its V2 protocol.
`python -m loadtest.peers` starts them in turn and measures.
"""
