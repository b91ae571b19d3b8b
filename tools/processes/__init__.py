"""The processes of one training: environment variables, collectives, signals, system limits, and how processes end."""
