"""Service Catalog: portfolios, products and their versions, who may launch them, and what was launched.

A product is provisioned as AWS does it: the template is the copy taken when the version was made, the stack
is named ``SC-<account>-pp-…`` and made with the credentials of the launch constraint's role, and the record
of the request ends with the stack's first failure. A caller under a role must be a principal of the
portfolio; the account's root (what a request without a role is here) may use everything, as an
administrator would.
"""
