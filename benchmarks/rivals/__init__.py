"""What others would write: small, fair programs that do the same work as the service."""
