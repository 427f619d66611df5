"""What every command needs, whatever it does: complete files, locks, logs, progress, errors of single posts."""
