"""FlowRunner: Airflow connectors that are safe to retry.

A map of the package, lowest layer first. Imports only point to lower layers.

``core``        errors, retries, deadlines, checkpoints, effects, ...; standard library only
``transport``   HTTP and SSH clients
``runtime``     ``core`` in Airflow: base classes of hooks, operators, sensors, triggers, notifiers; retry policy
``files`` ``data``   stores and data formats, used by the other connectors
``http`` ``database`` ``email`` ``auth``   connectors that are independent of each other
``webhooks`` ``sms`` ``chat`` ``reports``   connectors that build on ``http``, or on ``database`` and ``email``
``flows``       the catalogue of actions
``demo``        ``flowrunner demo``: a pipeline that is killed and recovers
``registry``    the list of connectors, from which provider info and catalogue are generated
"""

__version__ = "0.1.0"
