"""Training: loss, optimizer, schedule, loop, and runs that continue exactly after any interruption."""
