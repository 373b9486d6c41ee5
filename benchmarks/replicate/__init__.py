"""What `replication.py` is made of: the suites, their runs, the judge, and the report."""
