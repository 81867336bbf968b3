"""The figures: measurements that print a table, each against a reference that is not ours."""
