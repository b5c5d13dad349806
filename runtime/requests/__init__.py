"""Arguments to requests, checked before anything is decoded."""
