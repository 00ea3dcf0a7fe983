"""`python -m services.shipping`: the service on its own."""

from choreo import run
from services.shipping import shipping

if __name__ == "__main__":
    run(shipping)
