"""Text messages, each sent exactly once through the vendor that the connection names.

``numbers`` ``segments`` ``recipients``   validation of numbers and texts
``gateway`` ``gateways/<vendor>`` ``config``   the vendors behind one interface
``send`` ``delivery``   the engines, without Airflow
``hook`` ``operators`` ``sensors`` ``triggers`` ``notifier``   the Airflow side
"""
