"""One personalised mail per row: the engine of ``email.send_batch``."""
