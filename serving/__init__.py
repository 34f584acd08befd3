"""A bundle for many people (server), for many files (batch, Ray), and packed for Triton or Docker."""
