"""`glm-serve plan`: writes Helm values for a graphics card and a load, with the reason for each figure"""
