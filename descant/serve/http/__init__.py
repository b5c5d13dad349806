"""HTTP: the routes, the process, and the playground's page."""
