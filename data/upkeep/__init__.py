"""Looking after a lake: compare versions, explain a row, verify, forget, vacuum.

Not here: building. Start with the verb's file.
"""
