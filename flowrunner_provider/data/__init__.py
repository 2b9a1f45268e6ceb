"""Data on disk as rows: what every connector that reads or writes rows shares.

``dataset``    a reference to a file of rows: what tasks hand to each other instead of the rows
``readers``    CSV, JSON Lines and Parquet as batches of tuples, in constant memory
``lines``      the lines of a text file, plain or gzip, in bounded memory
"""
