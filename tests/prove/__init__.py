"""The slow proofs of docs/reliability.md. Each has a `prove(short)` that measures its figures; `./run.sh prove` runs them all.

report      a figure: its line, its JSON, the table in docs/reliability.md
promises    what must hold in a spool (P1 to P5), looked up from outside
operations  what is put under fire: the stage, the deed, what was acknowledged
scenes      those stages, and what is expected of the jobs on them; stages: what they are built from
fire        a process under strace that is killed before its Nth call, or whose Nth call fails
firing_range  one operation under fire again and again, and who runs the spool to its end afterwards
restart     the smallest spooler: takes over what a dead one left and runs it to the end
kill        SIGKILL before every system call, and again inside recovery
errno_      the Nth call fails, with each errno
parser      hostile files and cut-off ones before the parser of jobs and of batch files
hostile     the files: whole ones, damaged ones, giants
traces      programs write into pending/ while the spooler looks, and what becomes of it
plans       which of them, and how far each comes
turned      the spooler's service that they meet, turned by hand
writing     what a writer works at, and how long it may pause
writers     the programs, system call by system call; editors, folder_writers: those that save again, and those of folders
samples     what they write
programs    real ones, and a real spooler process
fuzz        requests drawn from the APIs' own documents against the real web app (fuzz_hooks: what schemathesis is told of it)
cluster     workers on other hosts, Redis and the store are killed at random while jobs go through them
parser_atheris  one kind of them under atheris, in a process of its own
"""
