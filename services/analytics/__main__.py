"""`python -m services.analytics`: the service on its own."""

from choreo import run
from services.analytics import analytics

if __name__ == "__main__":
    run(analytics)
