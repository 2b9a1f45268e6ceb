"""Data on disk as rows: what every connector that reads or writes rows shares.

``dataset``      a reference to a file of rows: what tasks hand to each other instead of the rows
``readers``      CSV, JSON Lines and Parquet as batches of tuples, in constant memory
``writers``      batches of tuples or records as files that appear only when whole (``csv_writer``,
                 ``parquet_writer``: the formats)
``values``       how one value is written in each format
``lines``        the lines of a text file, plain or gzip, in bounded memory
``json_source``  records out of JSON documents and JSON Lines
``convert``      one file of rows into another, counted
``operators``    the actions
"""
