"""Reports: the rows of a query, on their way to people.

``snapshot`` keeps the rows that the first attempt saw, ``table`` and ``sheet`` write them for readers, and ``mail``
sends them by what ``email`` offers.
"""
