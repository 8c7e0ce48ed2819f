"""The service: reasoning jobs over HTTP."""
