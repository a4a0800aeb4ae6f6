"""One foreign library or system per file."""
