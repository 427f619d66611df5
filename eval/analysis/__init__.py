"""Why a score is what it is: kinds of error, calibration, significance."""
