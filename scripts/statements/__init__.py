"""Every statement of every policy is needed: without it a named step of the rehearsal is denied.

``replay`` decides the questions of a rehearsal again without one statement at a time, all in half a minute;
``without`` takes a statement out of the templates for a rehearsal that really runs and must fail.
"""
