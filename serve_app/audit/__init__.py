"""The audit log: one JSON line a request, in a hash chain that shows every later change"""
