"""Records: the rows of adaptations and models in SQLite or PostgreSQL.

The address of a database and records of `metanas_server.resources` enter. The same records leave;
all statements go through SQLAlchemy. `migrate` creates the tables and brings older ones up to date
with the steps of the folder `versions`.
"""
