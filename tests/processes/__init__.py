"""Services as processes of their own, on one file."""
