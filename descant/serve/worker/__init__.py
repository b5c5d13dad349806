"""The decode process: its loop, its jobs, and the rows that it decodes."""
