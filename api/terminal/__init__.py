"""What the commands share: progress, reports, signals, input and output files, errors in words."""
