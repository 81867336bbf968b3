"""The words of the command line: each file turns options into one call and prints what comes back."""
