"""An OpenAPI document as the tools that it would give a host.

`document` reads it, `schemas` makes inputs of its schemas, `operations` decides which operations are tools and what
they are called. All of it is pure.
"""
