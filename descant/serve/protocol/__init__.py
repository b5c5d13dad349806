"""The HTTP interface and the messages between processes, as plain data: schemas, errors, limits."""
