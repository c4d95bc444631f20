// The live touches. Every page works without this file; it only saves reloads and keystrokes.
'use strict';
document.documentElement.classList.add('js');
const part = (name, root = document) => root.querySelector(`[data-part="${name}"]`);

// -- polling: quick while something moves, slow while it waits, slower when nobody looks or nobody answers ---------------
const poll = (url, show) => {
  let etag = null, failures = 0;
  const turn = async () => {
    let wait = 2000;
    try {
      const answer = await fetch(url, { headers: etag ? { 'If-None-Match': etag } : {}, cache: 'no-store' });
      if (answer.status === 404) return show(null);
      if (answer.status === 401) return location.reload(); // the session is over: the server leads to the login
      if (!answer.ok && answer.status !== 304) throw new Error(answer.status);
      failures = 0;
      if (answer.status === 200) {
        etag = answer.headers.get('ETag');
        wait = show(await answer.json());
      } else wait = show.last ?? 1000;
      show.last = wait;
      if (wait === null) return;
    } catch {
      failures += 1;
      wait = Math.min(30000, 1000 * 2 ** failures);
      show(undefined);
    }
    setTimeout(turn, document.visibilityState === 'hidden' ? Math.max(wait, 5000) : wait);
  };
  turn();
};

const doing = job => {
  if (job.waits_for) return job.waits_for;
  if (job.status === 'waiting') return job.position === 1 ? 'Next in line' : job.position ? `Number ${job.position} in line` : 'Waiting';
  if (job.status === 'held') return 'Held: it waits until it is released';
  const at = job.progress;
  if (!at || !at.steps) return 'Starting';
  if (at.phase === 'load') return 'Loading the model';
  const upTo = at.batch > 1 ? ` to ${at.image + at.batch}` : '';
  const which = at.count > 1 ? `Picture ${Math.min(at.image + 1, at.count)}${upTo} of ${at.count}, ` : '';
  return `${which}step ${at.step} of ${at.steps}`;
};

// -- one job's page --------------------------------------------------------------------------------------------------------
const page = part('job');
if (page && ['waiting', 'running', 'held'].includes(page.dataset.status)) {
  const seen = new Set([...page.querySelectorAll('figure img')].map(img => img.getAttribute('src')));
  const prompt = page.querySelector('h1').textContent.slice(0, 120);
  const figure = image => {
    const made = document.createElement('figure'), link = document.createElement('a'), img = document.createElement('img');
    link.href = img.src = image.url;
    img.alt = prompt;
    img.width = image.width;
    img.height = image.height;
    const caption = document.createElement('figcaption'), get = document.createElement('a');
    get.href = `${image.url}?download`;
    get.download = '';
    get.textContent = 'Download';
    caption.append(image.cell.length ? '' : `seed ${image.seed} `, get); // of a sweep, the finished page says more
    link.append(img);
    made.append(link, caption);
    return made;
  };
  poll(page.dataset.url, job => {
    if (job === undefined) { part('doing').textContent = 'No answer from the server; trying again …'; return 2000; }
    if (job === null || ['done', 'failed', 'cancelled'].includes(job.status)) {
      location.reload(); // the server has the whole page: the record, the buttons
      return null;
    }
    const badge = part('badge');
    badge.textContent = job.status;
    badge.className = `badge ${job.status}`;
    part('bar').value = job.progress ? job.progress.fraction_done : 0;
    if (part('doing').textContent !== doing(job)) part('doing').textContent = doing(job);
    page.querySelectorAll('[data-while]').forEach(each => { each.hidden = !each.dataset.while.split(' ').includes(job.status); });
    const preview = part('preview');
    preview.hidden = !job.preview;
    if (job.preview) preview.src = `${job.preview}?at=${job.progress?.image}-${job.progress?.step}`;
    for (const image of job.images) {
      if (seen.has(image.url)) continue;
      seen.add(image.url);
      part('pictures').append(figure(image));
    }
    return job.status === 'running' ? 400 : job.position === 1 ? 500 : 1000;
  });
}

// -- the queue: the server's own list, put in place when it changed ----------------------------------------------------------
const list = part('list');
if (list) {
  const turn = async () => {
    try {
      const text = await (await fetch(location.href, { cache: 'no-store' })).text();
      const fresh = part('list', new DOMParser().parseFromString(text, 'text/html'));
      // Not under somebody's fingers: a focused Cancel button stays where it is until it is left.
      if (fresh && fresh.innerHTML !== list.innerHTML && !list.contains(document.activeElement)) list.replaceChildren(...fresh.childNodes);
    } catch { /* the next turn tries again */ }
    setTimeout(turn, document.visibilityState === 'hidden' ? 10000 : 1500);
  };
  setTimeout(turn, 1500);
}
