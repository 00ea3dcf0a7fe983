"""`python -m services.orders`: the service on its own."""

from choreo import run
from services.orders import orders

if __name__ == "__main__":
    run(orders)
