"""The processes of one training: their environment, collectives, signals, and how they end."""
