"""Text messages: sent once whatever dies, through the gateway that the connection names.

``numbers`` ``segments`` ``recipients``   who is written to, and what it takes
``gateway`` ``gateways/<vendor>`` ``config``   the vendors behind one face
``send`` ``delivery``   the engines, pure
``hook`` ``operators`` ``sensors`` ``triggers`` ``notifier``   the Airflow side
"""
