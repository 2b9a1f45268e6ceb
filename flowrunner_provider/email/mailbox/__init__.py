"""Mail that came: mailboxes over IMAP, read, watched and put in order."""
