"""Chat: messages that a retry does not post twice, and cards that say what has happened to a task.

``gateway`` ``platforms/<name>`` ``slack`` ``post``   posting, pure
``cards`` ``config`` ``choices`` ``results``   cards and connections, pure
``hook`` ``operators`` ``notifier``   the Airflow side
"""
