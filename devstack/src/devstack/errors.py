class StackError(Exception):
    """The local stack cannot go on; the message says what is wrong and where to look."""
