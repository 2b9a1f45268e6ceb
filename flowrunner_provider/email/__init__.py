"""Email: messages that are sent exactly once, and mailboxes that are read exactly once.

Outgoing: ``message`` builds the bytes, ``send`` keeps the ledger, ``smtp`` and ``ses`` are the transports, ``batch``
sends one mail per row. Incoming: ``mailbox.imap`` is the wire protocol, ``mailbox.plan`` remembers which messages a
task works on, ``mailbox.read`` saves them, and ``mailbox.acts`` then marks, moves or deletes them.
"""
