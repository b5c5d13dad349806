"""HTTP: routes, connections, and the playground's page."""
