"""The engine: the only package that imports torch. One process, started by the spooler, ended when anything is in doubt.

__main__.py   the process: from command line to worker
worker.py     messages in, messages out, one job at a time
pipeline.py   a warm diffusers pipeline: load once, call many
"""
