// The stage: what became of the jobs that this browser sent, beside the form. A reload shows them all again.
import { make, part, say } from './form-desk.js';

const KEY = 'sdspool.jobs', MOST = 50;
const stage = part('stage'), says = part('stage-says'), bar = part('stage-bar'), pictures = part('stage-pictures');
const cancels = part('stage-cancel'), opens = part('stage-open');
const title = document.title;
const ENDED = ['done', 'failed', 'cancelled'];

let ids = [];
try { ids = JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { /* a browser that keeps nothing */ }
const keep = () => { try { localStorage.setItem(KEY, JSON.stringify(ids)); } catch { /* as above */ } };
const url = id => `api/v1/jobs/${encodeURIComponent(id)}`;

// Jobs that somebody holds, or that wait for an hour or for other jobs, by when they are looked at again: the stage is for those
// after them meanwhile, and keeps what was made last.
const resting = new Map(), REST_MS = 5000;
const rests = id => resting.get(id) > performance.now();

let etag = null, failures = 0, timer = null, current = null, painted = '', turning = false, over = false;

const seconds = span => span < 90 ? `${Math.max(1, Math.round(span))} s` : `${Math.round(span / 60)} min`;
const doing = job => {
  if (job.waits_for) return job.waits_for;
  if (job.status === 'held') return say('held');
  if (job.status === 'waiting') return job.position === 1 ? say('next') : job.position ? say('place', { n: job.position }) : say('waiting');
  const at = job.progress;
  if (at?.phase === 'load') return say('loading');
  if (!at?.steps) return say('starting');
  return at.count > 1 ? say('picture', { ...at, n: Math.min(at.image + 1, at.count) }) : say('step', at);
};
const ended = job => {
  if (job.status === 'cancelled') return say('cancelled');
  if (job.status === 'failed') return job.failure?.reason ?? say('failed', { why: '' });
  if (job.withheld?.length && !job.images.length) return say('withheld');
  const { denoise = 0, decode = 0, encode = 0 } = job.timings;
  return say('done', { time: seconds(denoise + decode + encode) });
};

const page = id => `jobs/${encodeURIComponent(id)}`;
const figure = (job, image) => {
  const img = make('img', { src: image.url, alt: (job.job.prompt || '').slice(0, 120), width: image.width, height: image.height });
  const cell = image.cell && Object.entries(job.job.sweep).map(([name, values], n) => `${name} ${values[image.cell[n]]}`.slice(0, 40)).join(', ');
  return make('figure', {}, make('a', { href: `${page(job.id)}#picture-${image.index}` }, img),
    make('figcaption', {}, make('span', { textContent: image.sheet ? '' : cell || say('seed', { seed: image.seed }) })));
};
// A picture that is shown stays the same element while others come: nothing flickers, and nobody's click goes astray.
const figures = new Map();
const kept = (job, image) => {
  if (!figures.has(image.url)) figures.set(image.url, figure(job, image));
  return figures.get(image.url);
};
const paint = job => {
  const live = !ENDED.includes(job.status);
  stage.hidden = false;
  stage.dataset.status = job.status;
  over = !live;
  const rest = live ? ids.length - 1 : 0;
  const text = live ? doing(job) + (rest > 0 ? ` · ${say('more', { n: rest })}` : '') : ended(job);
  if (says.textContent !== text) says.textContent = text;
  bar.hidden = !live;
  bar.value = job.progress?.fraction_done ?? 0;
  cancels.hidden = !live;
  document.title = job.status === 'running' && job.progress ? `${Math.round(job.progress.fraction_done * 100)} % · ${title}` : title;
  const shown = job.sheet && !live ? [{ url: job.sheet, sheet: true, index: 0 }, ...job.images] : job.images;
  const key = JSON.stringify([job.id, shown.map(image => image.url), live && job.preview ? job.progress?.step : null]);
  opens.href = page(job.id);
  opens.hidden = false;
  if (key === painted) return;
  painted = key;
  const seen = shown.map(image => kept(job, image));
  if (live && job.preview) {
    const preview = make('img', { className: 'rough', alt: say('preview'), src: `${job.preview}?at=${job.progress?.image}-${job.progress?.step}` });
    seen.push(make('figure', {}, preview));
  }
  // What was made before stays to be looked at until there is something of the new one.
  if (seen.length || !live) pictures.replaceChildren(...seen);
  pictures.classList.toggle('several', seen.length > 1);
};

const turn = async () => {
  if (turning || !ids.length) return;
  turning = true;
  let wait = 700;
  try {
    const next = ids.find(id => !rests(id)) ?? ids[0];
    if (current !== next) { current = next; etag = null; }
    const answer = await fetch(url(current), { headers: etag ? { 'If-None-Match': etag } : {}, cache: 'no-store' });
    failures = 0;
    if (answer.status === 404) { drop(); says.textContent = say('gone'); }
    else if (answer.status === 200) {
      etag = answer.headers.get('ETag');
      const job = await answer.json();
      const others = ids.some(id => id !== current && !rests(id));
      if ((job.status === 'held' || job.waits_for) && (others || over)) {
        resting.set(current, performance.now() + REST_MS);
        if (others) wait = 0;
      } else {
        if (job.parameters?.seed >= 0) localStorage.setItem('sdspool.seed', job.parameters.seed);
        paint(job);
        wait = job.status === 'running' ? 350 : job.position === 1 ? 400 : 1000;
        if (ENDED.includes(job.status)) { drop(job.id); wait = 0; }
      }
    } else if (answer.status !== 304) throw new Error(answer.status);
  } catch {
    failures += 1;
    wait = Math.min(30000, 1000 * 2 ** failures);
    says.textContent = say('offline');
  }
  turning = false;
  clearTimeout(timer);
  if (ids.length) timer = setTimeout(turn, document.visibilityState === 'hidden' ? Math.max(wait, 5000) : wait);
};
const drop = last => {
  ids = ids.filter(id => id !== current);
  if (last) localStorage.setItem('sdspool.last', last);
  keep();
};

export const watch = id => {
  ids = [...ids, id].slice(-MOST);
  over = false;
  etag = null; // the first of them has not changed, but how many more there are has
  keep();
  stage.hidden = false;
  if (ids.length === 1) { says.textContent = say('waiting'); bar.hidden = false; bar.value = 0; cancels.hidden = false; opens.href = page(id); opens.hidden = false; }
  stage.scrollIntoView?.({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  turn();
};
// The last of this browser's own jobs that has not ended; whose it is is known by who sent it.
export const cancelLast = async () => {
  const last = ids.at(-1);
  if (!last) return false;
  await fetch(url(last), { method: 'DELETE' }).catch(() => {});
  if (ids.length > 1 && ids.at(-1) === last) { ids.pop(); etag = null; keep(); }
  turn();
  return true;
};
cancels.addEventListener('click', cancelLast);
addEventListener('visibilitychange', () => { if (document.visibilityState === 'visible') turn(); });

// After a reload: what still runs, else what ended last.
const again = async () => {
  if (ids.length) return turn();
  const last = localStorage.getItem('sdspool.last');
  const answer = last && await fetch(url(last), { cache: 'no-store' }).catch(() => null);
  if (answer?.ok) paint(await answer.json());
};
again();
