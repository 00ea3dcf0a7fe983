"""The tests: house, unit, contracts, simulation, integration."""
