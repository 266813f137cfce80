"""`make check`: the templates, policies and code of this repository under every scanner, without a network.

Each scanner is a function from templates to findings (scanners.py, iam.py, house.py, code.py). A finding is
mended, or it is waived beside its resource with a reason (findings.py); what neither happened to fails the
check.
"""
