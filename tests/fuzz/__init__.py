"""Fuzzing of all that a caller sends: pictures, forms and JSON bodies, through the app to the real decoder processes.

    python -m tests.fuzz --minutes 10 pictures     (or forms, or bodies)

Each case has to be answered or refused: status below 500 in the shape of errors.py, within a deadline, without growth
of memory. `test_fuzz.py` replays the files of corpus/ and runs each kind for some seconds.
"""
