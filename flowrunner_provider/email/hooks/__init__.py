"""The hooks of email, one for each connection type; that of ``smtp`` is in ``email.hook``."""
