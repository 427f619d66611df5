"""What every command needs: complete files, locks, logs, progress, errors of single posts."""
