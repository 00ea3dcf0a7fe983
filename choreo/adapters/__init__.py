"""Technologies behind the ports: one module or package for each, sealed from the others."""
