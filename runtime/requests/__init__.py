"""From arguments to requests, checked before anything is decoded."""
