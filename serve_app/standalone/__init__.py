"""`glm-serve up`: the service on one machine, with a private Ray, in the foreground"""
