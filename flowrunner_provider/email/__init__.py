"""Email: messages sent once, and mailboxes read once.

Out: ``message`` builds the bytes, ``send`` keeps the ledger, ``smtp`` is the first transport; none of the
three knows how the others work. In: ``imap`` is the wire, ``mailbox_plan`` remembers which messages a task is
about, ``mailbox_read`` brings them to safety, and ``mailbox_acts`` touches them afterwards.
"""
