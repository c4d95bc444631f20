// The live touches. Every page works without this file; it only saves reloads and keystrokes.
'use strict';
document.documentElement.classList.add('js');
const part = (name, root = document) => root.querySelector(`[data-part="${name}"]`);

// -- polling: one small answer tells what moved; a part of a page whose version changed is fetched from the server anew ---------
const say = words => { part('said').textContent = words; };
const fill = (words, values) => words.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
const span = seconds => seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;

// Ask until `show` returns null. It gets the answer, undefined when there was none, and returns the milliseconds that it would
// like to wait; the server's own wish (Poll-After-Ms) goes before, and a page that nobody looks at asks seldom.
const poll = (url, show) => {
  let etag = null, failures = 0, wait = 1000, timer = 0;
  const turn = async () => {
    let least = 0;
    try {
      const answer = await fetch(url, { headers: etag ? { 'If-None-Match': etag } : {}, cache: 'no-store' });
      if (answer.status === 401) { location.reload(); return; } // the session is over: the server leads to the login
      if (!answer.ok && answer.status !== 304) throw new Error(answer.status);
      failures = 0;
      least = Number(answer.headers.get('Poll-After-Ms'));
      if (answer.status === 200) {
        etag = answer.headers.get('ETag');
        wait = show(await answer.json());
      } else wait = Math.min(wait * 1.25, 5000); // the longer nothing moves, the longer the pause
      if (wait === null) return;
    } catch {
      failures += 1;
      least = Math.min(30000, 1000 * 2 ** failures);
      show(undefined);
    }
    timer = setTimeout(turn, Math.max(wait, least, document.hidden ? 15000 : 0) * (0.9 + Math.random() / 5));
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) { clearTimeout(timer); timer = setTimeout(turn, 50); } });
  turn();
};

// Put the server's own parts in place of ours, but for those under somebody's fingers: a part with the focus, an open menu or a
// drag stays as it is until the next turn. Returns whether all were put in place.
const refresh = async (keep = () => false) => {
  const answer = await fetch(location.href, { cache: 'no-store' });
  if (!answer.ok) { if (!part('form')) location.reload(); return true; } // a reload would take the pictures that the form was given
  const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
  let all = true;
  for (const theirs of fresh.querySelectorAll('[data-fresh]')) {
    const mine = document.querySelector(`[data-fresh="${theirs.dataset.fresh}"]`);
    if (!mine || mine.innerHTML === theirs.innerHTML) continue;
    const busy = mine.contains(document.activeElement) || mine.querySelector('details.menu[open], .dragged') || keep(mine);
    if (busy) { all = false; continue; }
    mine.replaceChildren(...theirs.childNodes);
  }
  return all;
};

const doing = (progress, words) => {
  if (!progress.steps) return words.starting;
  if (progress.phase === 'load') return words.loading;
  return fill(progress.count > 1 ? words.several : words.one,
    { n: Math.min(progress.image + 1, progress.count), count: progress.count, step: progress.step, steps: progress.steps });
};
const put = (node, words) => { if (node && node.textContent !== words) node.textContent = words; };
const showProgress = (root, running, words) => {
  part('bar', root)?.setAttribute('value', running.fraction_done);
  put(part('doing', root), doing(running, words));
  put(part('left', root), running.ends_in_s === null ? '' : fill(words.left, { time: span(running.ends_in_s) }));
  const preview = part('preview', root);
  if (preview && running.preview) {
    const wanted = `${running.preview}?at=${running.image}-${running.step}`;
    if (preview.getAttribute('src') !== wanted) preview.src = wanted;
    preview.hidden = false;
  }
};
const showCount = told => {
  const count = part('count');
  if (!count || !told) return;
  put(part('number', count), told.waiting ? String(told.waiting) : '');
  count.hidden = !told.waiting;
};

// The banner and the light in the frame: the server told with the page what it had seen of the spooler.
let seen = document.body.dataset.seen;
const showFrame = told => {
  const now = `${told.reason ?? ''}|${+told.paused}`;
  if (seen === undefined || seen === now) return;
  refresh().then(all => { if (all) seen = now; }).catch(() => {});
};

// -- one job's page, the queue, the status, and the count in the frame of every other page -----------------------------------------
const page = part('job'), list = part('queue'), status = part('status');
const live = document.body.dataset.live;
if (page && ['waiting', 'running', 'held'].includes(page.dataset.status)) {
  let version = page.dataset.version;
  poll(`${live}?job=${encodeURIComponent(page.dataset.job)}`, told => {
    if (told === undefined) { put(part('doing'), document.body.dataset.lost); return 2000; }
    showCount(told);
    showFrame(told);
    if (!told.job || ['done', 'failed', 'cancelled'].includes(told.job.status)) {
      location.reload(); // the server has the whole page: the record, the buttons
      return null;
    }
    const running = told.running.find(each => each.id === page.dataset.job);
    if (told.job.version !== version) {
      refresh().then(all => { if (all) version = told.job.version; });
    } else if (running) showProgress(page, running, page.dataset);
    else if (told.job.position) put(part('doing'), told.job.position === 1 ? page.dataset.next : fill(page.dataset.place, { n: told.job.position }));
    return running ? 500 : told.job.position === 1 ? 700 : 1500;
  });
} else if (list) {
  let version = null, tries = 0;
  poll(live, told => {
    if (told === undefined) { say(document.body.dataset.lost); return 2000; }
    showCount(told);
    if (version !== told.queue && (version !== null || tries++ < 1)) {
      refresh(each => each.querySelector('input:checked')).then(all => { if (all) version = told.queue; });
    }
    for (const running of told.running) {
      const row = list.querySelector(`[data-running][data-job="${CSS.escape(running.id)}"]`);
      if (row) showProgress(row, running, list.dataset);
    }
    return told.running.length ? 700 : 2000;
  });
} else if (live) {
  const beside = part('now'); // beside the form: what runs, waits and came last
  let version = null;
  if (status) setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 1000 * Number(status.dataset.every));
  poll(live, told => {
    if (!told) return 5000;
    showCount(told);
    if (!beside || version === null) showFrame(told);
    if (!beside) return 5000;
    if (version !== null && version !== told.queue) refresh().then(all => { if (all) version = told.queue; }).catch(() => {});
    else version = told.queue; // which another reason or pause changes, too
    for (const running of told.running) {
      const row = beside.querySelector(`[data-running][data-job="${CSS.escape(running.id)}"]`);
      if (row) part('bar', row)?.setAttribute('value', running.fraction_done);
    }
    return 2000;
  });
}

// -- small things of every page -----------------------------------------------------------------------------------------------------
addEventListener('click', event => {
  for (const menu of document.querySelectorAll('details.menu[open]')) if (!menu.contains(event.target)) menu.open = false;
  const copy = event.target.closest?.('[data-copy]');
  if (copy) {
    const text = document.querySelector(copy.dataset.copy).textContent;
    const old = () => { // without TLS a browser keeps the clipboard from pages
      const area = document.createElement('textarea');
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
    };
    (navigator.clipboard ? navigator.clipboard.writeText(text).catch(old) : Promise.resolve(old())).then(() => {
      say(document.body.dataset.copied);
      copy.classList.add('did');
      setTimeout(() => copy.classList.remove('did'), 1500);
    });
  }
});
addEventListener('keydown', event => {
  const menu = event.key === 'Escape' && event.target.closest?.('details.menu[open]');
  if (menu) { menu.open = false; menu.querySelector('summary').focus(); }
});
// The theme changes at once; the cookie, which the next page is made by, is set beside it.
part('theme')?.addEventListener('submit', event => {
  event.preventDefault();
  const chosen = event.submitter.value, data = new FormData(event.target, event.submitter);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  document.querySelector('meta[name="color-scheme"]').content = chosen || 'light dark';
  for (const each of event.target.querySelectorAll('button')) each.setAttribute('aria-pressed', String(each === event.submitter));
  fetch(event.target.action, { method: 'POST', body: new URLSearchParams(data), redirect: 'manual' }).catch(() => {});
});
