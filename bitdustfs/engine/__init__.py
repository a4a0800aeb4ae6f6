"""Policy in trio over ports and core."""
