"""`python -m services.notifications`: the service on its own."""

from choreo import run
from services.notifications import notifications

if __name__ == "__main__":
    run(notifications)
