"""Between hosts: real network namespaces, each with its own addresses and routes."""
