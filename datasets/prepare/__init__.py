"""From a raw release of IEMOCAP or CMU-MOSEI to the processed layout that mmx and the public code read."""
