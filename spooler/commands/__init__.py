"""The verbs of the command `sdspool`. Each module adds its verbs to the parser (`add`), and each verb returns its exit status.

submitting  submit, wait, replay
looking     ls, show
changing    cancel, hold, release, retry, top, priority, pause, resume, star, edit
upkeep      fsck, prune, export, import
printing    schema, settings, states
"""
