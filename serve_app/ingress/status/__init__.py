"""Health, readiness, models and metrics: routes and responses."""
