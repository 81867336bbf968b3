"""What was written: sources, articles, chunks, and the database and generations that keep them."""
