"""The program over HTTP, and its page: the only room that knows of requests.

It answers with what the rest of `retrieval` finds, and writes nothing into a collection but the vectors of a P tower
that a prediction asks for.
"""
