"""Incoming mail: reads, watches and organises IMAP mailboxes."""
