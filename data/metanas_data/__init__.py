"""Images, data sets and evaluation records, shared by the core and the client.

Paths, encoded images and arrays enter; uint8 arrays, episodes and records leave. The command
lines get their suggestions for misspelt names here. The package needs NumPy and Pillow only, and
imports no other package of this project. Importing `metanas_data` itself loads neither of the two.
"""
