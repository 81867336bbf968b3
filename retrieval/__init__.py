"""What is asked of it: search, evaluation, and the benchmarks that print the figures."""
