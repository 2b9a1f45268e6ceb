"""Email: one message, sent once.

``message`` builds the bytes, ``send`` keeps the ledger, ``smtp`` is the first transport; none of the
three knows how the others work.
"""
