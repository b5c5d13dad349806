"""The process that decodes: its loop, and the requests that it has in hand."""
