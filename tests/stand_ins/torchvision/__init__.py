"""A stand-in for torchvision, which spandrel imports for two architectures that no test uses (LaMa, RestoreFormer).

It has the names that they import and nothing behind them: each raises when it is called. test_upscale.py puts this folder
on sys.path while it imports spandrel, where there is no torchvision, and takes it off again: others ask whether there is
one (transformers does) and should be told the truth.
"""
