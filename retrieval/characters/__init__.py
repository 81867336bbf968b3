"""Next-character prediction over 78 symbols: the small language models an architecture sweep compares.

Importing this package loads no torch.
"""
