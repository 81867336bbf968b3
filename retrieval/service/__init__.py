"""The program over HTTP, and its page: the only room that knows of requests.

It answers with what the rest of `retrieval` finds, and never writes to a collection.
"""
