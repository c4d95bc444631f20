"""The engine: the only package that imports torch. One process, started by the spooler, ended when anything is in doubt.

__main__.py     the process: from command line to worker
commands.py     what the spooler says, heard in mid-job
worker.py       messages in, messages out: batches, the out-of-memory ladder
warming.py      the first picture of a process
reports.py      what is told of a job's end
album.py        a job's pictures on their way into its folder: filters, files, contact sheet
add_ons.py      the VAEs and ControlNets that jobs lay over a model
draw.py         the kinds of work: from a job and its seeds to pictures
model.py        one model in memory: its pipelines, samplers, LoRAs, embeddings
residents.py    the models that are loaded, within what they may take
loading.py      from a folder or file to a pipeline; single_file.py and configs/ for checkpoints
memory.py       modes, tricks, rungs, and what fitted
prompts.py      weights, BREAK and long prompts to embeddings
group.py company.py party.py    jobs of one key: those that share the calls of a UNet, or of a whole pipeline
table.py row.py batch.py ends.py    jobs that share each call of the UNet
preview.py compiled.py upscale.py safety.py    what their names say
device.py       which device, how much memory, which errors it survives
facts.py        what torch can do here, for `sdspool doctor`
notes.py        small files in the cache folder
"""
