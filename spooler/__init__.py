"""sdspool's spool and spooler: a job file in spool/pending becomes pictures in spool/done.

The way of the data, which is also the order to read the files in:

    job.py        what a person asks for: the job file, its fields, its rules
    strict_json.py  the bytes of a JSON object, read strictly
    mistakes.py   what is wrong with a job, in sentences
    job_schema.py the JSON Schema of a job file
    moments.py    times as text, with their zone
    prompt.py     weights, BREAK and LoRAs in a prompt's text
    tokens.py     how many tokens a prompt is, counted without a library
    samplers.py   the samplers and schedules that a job may name
    families.py   what each family of models can do
    distilled.py  models that need few steps, and the defaults that suit them
    catalogue.py  the models that a job may name, their defaults, what may be laid over them: the rules
    library.py    those that lie on this machine, and their files
    checkpoint.py what a safetensors file tells of itself
    pictures.py   pictures that come along with a job
    denylist.py   what no prompt may have
    record.py     what happened to a job, kept beside it
    status.py     what a spooler tells while it works
    durable.py    writing so that a power cut cannot take it back
    ids.py        the names of jobs
    states.py     the states of a job, and the table of the moves between them
    place.py      where a job is
    reader.py     looking at a spool, which changes nothing
    moves.py      one change of state: a rename that the table allows, under a lock
    claims.py     claiming jobs that wait, several in one go
    marks.py      priority, star and pause: side files
    spool.py      the folders, and every verb that moves a job between them
    removal.py    removing a stranger's file or folder, however deep
    life.py       the lock and the epoch of a living spooler
    vacancy.py    whether there is room to start, for run.sh to ask first
    pending.py    what waits, kept in memory
    intake.py     what waits as one spooler sees it, and which is next
    floor.py      the free space below which nothing is begun
    doorman.py    what lies in pending/ and is not simply a job
    batches.py    a dropped file of several jobs, once it was taken
    gate.py       whether a waiting job may run yet
    watch.py      hints that something changed in the spool, and that the watch is not deaf
    inotify.py    the file events of Linux
    mounts.py     what file system the spool is on, and what of it is dangerous
    schedule.py   which job is next on the GPU: pure functions
    estimate.py   how much work a job is, and when the waiting ones will start
    messages.py   what the two halves say to each other
    warden.py     starts the engine, kills it, buries it
    running.py    the job that the engine has
    attempts.py   the attempts at jobs: begun, heard of, published or put back
    service.py    the spooler: its loop, what its engines say, which job is begun where, recovery
    targets.py    whom a job's end is told, as the operator set it
    notices.py    what is told, and the outbox in which it waits
    webhook.py    telling by a signed POST
    notify.py     the threads that deliver, again and again
    retention.py  which ended jobs are removed, and removing them
    child.py      the spooler's handle on the engine's process
    engine/       the only package that imports torch: prompt in, pictures out
    infotext.py   the text inside each picture that other tools read, written and read back
    metadata.py   the settings that other tools leave in their pictures
    png.py        the texts in a PNG, and whether all its bytes are there
    csv_table.py  a table of jobs, as spreadsheets write it
    batch_file.py a dropped file of several jobs: .jsonl, .csv, .txt, .png
    sheet.py      the contact sheet of a sweep
    edit.py       changing jobs that wait
    archive.py    a queue as a tar file
    fsck.py       looking for what a promise forbids
    logs.py       log lines that are what they seem
    cli.py        the command `sdspool`
    commands/     its verbs
    doctor.py     `sdspool doctor`: what this machine can do, and what to change
    settings.py   every setting, one row each

Nothing here but engine/ loads torch; the web app imports job, spool and record and stays light.
"""

__version__ = "0.1.0"
