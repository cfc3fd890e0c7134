"""The answer cache: a repeated question gets its answer without work of the model"""
