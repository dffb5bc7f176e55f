"""What Prefect retries, limits and shows: thin shells around the engine, with policy and settings."""
