"""What is truly a pipeline's own: how its stack carries the trips."""
