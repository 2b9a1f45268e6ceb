"""Outbound webhooks: signed messages that are delivered once, and notifications about tasks and runs.

``choices`` ``results`` ``signing`` ``config`` ``send``   pure
``hook`` ``operators`` ``notifier``   the Airflow side
"""
