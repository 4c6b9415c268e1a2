"""Helpers without a subject: checks, random streams, files, tables, memory, modules, traces.

Other folders import from the files of this one.
"""
