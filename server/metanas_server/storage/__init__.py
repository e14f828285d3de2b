"""Storage: artefacts named by their SHA-256 together with their records, and support sets.

Records and bytes enter and leave. An adaptation is accepted when it is written to disk.
"""
