"""Other people's clients and load tools, each in its own pinned environment, against the real service.

    make test TEST_ARGS="-m conformance"                                  all of it
    .venv/bin/python -m pytest -m conformance tests/conformance -k langchain    one client

The service is `glm-serve up` with the demo model. Each client's script in `clients/` runs once in the client's
environment, does everything that the tests need, and prints its results; the tests know what is right.
So a test's time is small, and the first test of each client has the time of its whole script.

Environments are made from the locks in `locks/` when they are first needed, kept in `.conformance/` (2 GB, about
three minutes), and made anew when their lock changes. Nothing but Python and pip has to be there: Node comes from
PyPI too. To change a version: edit `WANTED` in lock.py (or a package.json in locks/), then
`.venv/bin/python -m tests.conformance.lock NAME`.

To add a client: a lock, a script in clients/ with the checks it offers, a line in clients/__init__.py; tests of what it
can't do name it in `for_clients_except`.
"""
