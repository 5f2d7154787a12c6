"""Training: loops, schedules, and where training images come from."""
