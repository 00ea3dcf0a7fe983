"""`python -m services.payments`: the service on its own."""

from choreo import run
from services.payments import payments

if __name__ == "__main__":
    run(payments)
