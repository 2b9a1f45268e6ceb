"""FlowRunner: Airflow connectors that can be retried without fear.

A map of the package, from the ground up (imports only ever point downwards):

``core``        the promises, standard library only: errors, retry, deadline, checkpoint, effects, ...
``transport``   the wires: HTTP, SSH
``runtime``     the Airflow side of ``core``: base hook, operator, sensor, trigger, notifier, watcher, retry policy
``files`` ``data``   the stores and the formats, on which the other connectors stand
``http`` ``database`` ``email`` ``auth``   the connectors, independent of each other
``webhooks`` ``sms`` ``chat`` ``reports``   what stands on them: the first three on ``http``, the last on the other two
``flows``       the catalogue of actions, and later the YAML flows built on it
``demo``        ``flowrunner demo``: a pipeline that survives being killed
``registry``    the list of connectors; everything generated starts there
"""

__version__ = "0.1.0"
