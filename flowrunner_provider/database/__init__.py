"""SQL databases: changes that commit together with the record that they happened.

``identifiers`` the only way for a name to reach SQL ``config`` the settings of a connection, one dataclass per type
``dialects`` what differs between databases ``ledger`` the table that makes work happen once ``once`` a transaction with
its ledger row ``load`` files into tables, and ``export`` back
"""
