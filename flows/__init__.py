"""What an admin can start: check a wave, migrate a wave, report a wave."""
