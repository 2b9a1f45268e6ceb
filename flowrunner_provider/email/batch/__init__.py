"""One personal mail for each row: ``email.send_batch``."""
