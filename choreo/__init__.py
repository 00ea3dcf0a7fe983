"""Event-driven choreography without an orchestrator."""
