"""The API of AUTOMATIC1111's web UI (1.10.1), on the same spool: clients that speak it work as they are.

    requests.py   what a client may send, one row a parameter, with what becomes of each
    translate.py  a request -> a job and its pictures; what the engine cannot do is refused or named (no disk, no clock)
    starts.py     pictures and masks made ready as A1111 makes them: stretched, cropped, filled, turned round
    draw.py       txt2img, img2img, upscaling: a job whose caller waits
    info.py       what is told of the finished pictures
    lists.py      samplers, models, options, ... (options.py keeps what a client has set)
    progress.py   how far the running job is, and one's own task
    tools.py      png-info, interrupt, skip, memory, ...
    bodies.py     the JSON object that a request carries
    errors.py     A1111's shapes of what went wrong
    description.py  all of it as OpenAPI
    register.py   all of it into the app

The contract, with what clients need of it, is told in docs/api-a1111.md.
"""
