"""The server's side of a request: formulas, streams, and the link to the decode process."""
