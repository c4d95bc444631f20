"""OpenAI's images API under /v1, on the same spool: a request is a job whose caller waits.

    asked        what a request asks for: its fields, judged by name, as a job
    masks        the pictures of an edit: what is transparent is to be painted
    told         what is answered: pictures in the wanted format, the bodies, the events
    mishaps      errors in OpenAI's shape
    views        the routes
    description  all of it as OpenAPI 3.1

The contract (fields, events, errors, headers) is that of the SDK `openai` 3.54 and of OpenAI's published API reference;
docs/api-openai.md tells where this server differs, and what has no effect here.
"""
