"""The tests of a deployed model version (flow F): what they ask, how they judge, and the report of it.

`smoke_test` runs them: all of them in staging, in production those that do not strain it. A test is a
function that asks a Client and notes its checks in a Report; `smoke_test.run_checks` has the list.
"""
