"""SQL databases: loads that commit together with the record that they happened.

``identifiers``  the only way a name reaches SQL
``config``       settings of a connection, one dataclass per type
``dialects``     what differs between databases, one file each
``ledger``       the table that makes a load happen once
``load``         the load itself
"""
