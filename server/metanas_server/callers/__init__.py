"""Callers: tokens with names and roles, the identity of each call, and the audit log.

A token file and the metadata of a call enter. A `Caller` leaves: its name, its role, and the owner
of the adaptations and models that it sees. The command `metanas-server tokens` changes the file.
"""
