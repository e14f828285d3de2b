"""The doctor: checks of all that a server needs, for `metanas-server doctor`.

The options of the server enter; findings leave, each with what to do. Nothing is changed.
"""
