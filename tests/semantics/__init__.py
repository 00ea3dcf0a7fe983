"""What choreo promises about a step, on the real App: independent of the example services."""
