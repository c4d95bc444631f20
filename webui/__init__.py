"""The browser's and the API clients' side: an HTTP request becomes a job in spool/pending. Never imports torch.

app.py        the factory: one Flask app over one spool
office.py     what every view works with, and the one way in for a job
guard.py      which requests are let in
origins.py    whether a request is meant for this server, and comes from its own pages
keys.py       the file of keys; private_file.py: a file that only its owner reads
sessions.py   who logged in on the page; login.py: where they do
pace.py       how often, and how much at once
people.py     who asks; rules.py: who may use a route that changes something
errors.py     what went wrong, told as JSON or as a page
reports.py    what can be told of a job, for the pages and the API alike
index.py      finding finished jobs among a million: a throw-away copy of what lies in done/, failed/ and cancelled/
listings.py   listing those folders; index_folder.py: where the copy lies
search.py     what may be asked of it: words, filters, cursors, pages
finished.py   what it keeps of a job
store.py      its SQLite file
live.py       what moves, for the open pages: one small answer for all of them
api.py        /api/v1, /healthz, /readyz
openapi.py    the API's own description, made from the models; openapi_routes.py: its table; openapi_parts.py: what rows share
pages.py      the pages, server-rendered
form.py       the form at /, its links, and what a job begins with
flat.py       a job as flat names and texts: the form's fields and a link's parameters
origin.py     a form that begins with a job that there is, and its pictures
aids.py       what the form asks meanwhile: tokens, the settings in a picture, styles
styles.py     snippets of prompts under a name, kept in the spool
packed.py     static texts go packed over the line
frame.py      what is around every page, and what a browser is remembered by
facts.py      a job's record as rows for people
gallery.py    what a person asks of the gallery
actions.py    what people do to a job and to the queue; bulk.py to many at once; editing.py to one that waits
moves.py      what moving a job before another means
pictures.py   pictures for the pages; thumbnails.py makes the small ones; zips.py packs them
status.py     how the server is; day.py counts the last day, plots.py draws it
metrics.py    /metrics, for Prometheus; meter.py: what this process counts of its own work
logged.py     what stands beside an event in the log
tongues.py    the languages of the pages; sentences.py: what is said often, in them; labels.py: what the form calls a field
server.py     waitress, with connections that may be slow
__main__.py   the process
"""
