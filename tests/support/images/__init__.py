"""Image files for tests, made part by part: every shape that JPEG, PNG and WebP allow, and others.

Nothing here is checked, so that a file can be as odd or as broken as its test wants.
"""
