// The gallery without an end, and its selection. Without this file "More" is a link, and the boxes are ticked one by one.
'use strict';
{
  const one = (name, root = document) => root.querySelector(`[data-part="${name}"]`);
  const thumbs = one('thumbs'), pager = one('pager'), picks = one('picks');

  if (thumbs) {
    // -- more, when the end comes near ----------------------------------------------------------------------------------------------
    let fetching = false;
    const more = async () => {
      const link = pager.querySelector('[rel="next"]');
      if (!link || fetching) return;
      fetching = true;
      watch.unobserve(pager);
      let rest = 5000; // before it is tried again by itself, when the server had no answer
      try {
        const answer = await fetch(link.href);
        if (!answer.ok) return;
        const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
        const items = [...fresh.querySelectorAll('[data-part="thumbs"] > li')];
        thumbs.append(...items);
        const next = fresh.querySelector('[data-part="pager"] [rel="next"]');
        if (next) link.href = next.href; else link.remove();
        document.querySelector('[data-part="said"]').textContent = pager.dataset.more.replace('{n}', items.length);
        rest = 0;
      } finally {
        fetching = false;
        // Watched anew, for a watch tells of changes only: who scrolled to the new end before the next frame changed nothing.
        setTimeout(() => watch.observe(pager), rest);
      }
    };
    const watch = new IntersectionObserver(entries => { if (entries.some(each => each.isIntersecting)) more().catch(() => {}); }, { rootMargin: '600px' });
    watch.observe(pager);
    pager.addEventListener('click', event => {
      if (event.target.closest('[rel="next"]') && !event.ctrlKey && !event.metaKey) { event.preventDefault(); more().catch(() => {}); }
    });

    // -- the selection: shift takes a whole stretch, Esc takes it back ---------------------------------------------------------------
    const boxes = () => [...picks.querySelectorAll('input[name="job"]')];
    const picked = one('picked');
    const count = () => { picked.textContent = picked.dataset.words.replace('{n}', boxes().filter(each => each.checked).length); };
    let last = null;
    picks.addEventListener('click', event => {
      if (event.target.name !== 'job') return;
      const all = boxes(), now = all.indexOf(event.target), from = all.indexOf(last);
      if (event.shiftKey && from >= 0) for (const each of all.slice(Math.min(now, from), Math.max(now, from) + 1)) each.checked = event.target.checked;
      last = event.target;
      count();
    });
    picks.addEventListener('change', count);
    const none = () => { for (const each of boxes()) each.checked = false; count(); };
    document.querySelector('#bulk').addEventListener('reset', () => setTimeout(none));
    addEventListener('keydown', event => { if (event.key === 'Escape' && !event.target.closest('.menu, dialog')) none(); });
    count();
  }
}
