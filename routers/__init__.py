"""Routers: which model and which policy a query gets; one router a file. None is here yet."""
