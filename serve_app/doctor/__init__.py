"""`glm-serve doctor`: checks whether machine and model are ready, and says what to do"""
