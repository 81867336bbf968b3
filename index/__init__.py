"""Where it lies in space: encoders, vector shards, both indexes, and the pipeline that builds them."""
