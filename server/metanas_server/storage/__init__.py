"""Storage: the database, artefacts named by their SHA-256, and support sets.

Records and bytes enter and leave. An adaptation is accepted when it is written to disk.
"""
