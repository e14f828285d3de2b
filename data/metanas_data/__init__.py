"""Images, data sets and evaluation records, shared by the core and the client.

Paths, encoded images and arrays enter; uint8 arrays, episodes and records leave. `suggest` makes
the suggestions for misspelt names on the command lines. The package needs NumPy and Pillow only.
`import metanas_data` itself loads neither of them.
"""
