// Moving jobs in the queue by drag and by keyboard. Without this file two buttons on each row move it by one place.
'use strict';
{
  const list = document.querySelector('[data-part="queue"]');

  // Ask the server to move the job before another ("" is the end), and show the order that it has then.
  const move = async (job, before, focus) => {
    const body = new URLSearchParams({ before, back: location.pathname + location.search });
    const answer = await fetch(`${location.origin}${list.querySelector(`[data-job="${CSS.escape(job)}"] form[action$="/move"]`).getAttribute('action')}`, { method: 'POST', body });
    if (!answer.ok) { location.reload(); return; }
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html').querySelector('[data-fresh="lists"]');
    list.querySelector('[data-fresh="lists"]').replaceChildren(...fresh.childNodes);
    const row = list.querySelector(`[data-job="${CSS.escape(job)}"]`);
    if (!row) return;
    (row.querySelector(`[data-way="${focus}"]`) ?? row.querySelector('[data-way]') ?? row.querySelector('a'))?.focus();
    const place = row.querySelector('.place')?.lastChild.textContent;
    document.querySelector('[data-part="said"]').textContent = list.dataset.moved.replace('{n}', place);
  };

  list.addEventListener('submit', event => {
    const button = event.submitter;
    if (!button?.dataset.way) return;
    event.preventDefault();
    move(button.closest('[data-job]').dataset.job, event.target.elements.before.value, button.dataset.way).catch(() => {});
  });
  list.addEventListener('keydown', event => {
    const row = event.target.closest('[data-movable]');
    if (!row || !event.altKey || !['ArrowUp', 'ArrowDown'].includes(event.key)) return;
    event.preventDefault();
    row.querySelector(`[data-way="${event.key === 'ArrowUp' ? 'up' : 'down'}"]`)?.click();
  });

  // -- drag: the row goes with the pointer, the others make room when it passes their middle, near an edge the page scrolls ----------
  const EDGE = 80; // pixels
  let drag = null; // `y`: where the pointer would be if the row stood where it is in the list; `at`: where it is
  const centre = each => { const at = each.getBoundingClientRect(); return at.top + at.height / 2; };
  const follow = () => {
    const { row } = drag;
    for (;;) { // a quick hand passes several rows between two events
      row.style.translate = `0 ${drag.at - drag.y}px`;
      const above = row.previousElementSibling, below = row.nextElementSibling, top = row.getBoundingClientRect().top;
      if (above?.dataset.job && centre(row) < centre(above)) above.before(row);
      else if (below?.dataset.job && centre(row) > centre(below)) below.after(row);
      else return;
      drag.y += row.getBoundingClientRect().top - top;
    }
  };
  const scroll = () => {
    if (!drag) return;
    const before = scrollY, past = Math.min(drag.at - EDGE, 0) + Math.max(drag.at - innerHeight + EDGE, 0);
    const next = past < 0 ? drag.row.previousElementSibling : drag.row.nextElementSibling;
    if (next?.dataset.job) scrollBy({ top: past / 5, behavior: 'instant' }); // the row itself, past the last one, would make the page longer
    if (scrollY !== before) { drag.y -= scrollY - before; follow(); }
    requestAnimationFrame(scroll);
  };
  list.addEventListener('pointerdown', event => {
    const row = event.target.closest('[data-part="grip"]')?.closest('[data-movable]');
    if (!row || event.button) return;
    event.preventDefault();
    drag = { row, y: event.clientY, at: event.clientY, before: row.nextElementSibling };
    row.classList.add('dragged');
    list.setPointerCapture(event.pointerId);
    requestAnimationFrame(scroll);
  });
  list.addEventListener('pointermove', event => {
    if (!drag) return;
    drag.at = event.clientY;
    follow();
  });
  const drop = event => {
    if (!drag) return;
    const { row, before } = drag;
    drag = null;
    row.classList.remove('dragged');
    row.style.translate = '';
    if (event.type === 'pointercancel' || row.nextElementSibling === before) { before ? before.before(row) : row.parentNode.append(row); return; }
    const after = row.nextElementSibling;
    move(row.dataset.job, after?.matches('[data-movable], [data-job]') ? after.dataset.job : '', 'up').catch(() => {});
  };
  list.addEventListener('pointerup', drop);
  list.addEventListener('pointercancel', drop);

  // -- the selection -----------------------------------------------------------------------------------------------------------------
  const picked = list.querySelector('[data-part="picked"]');
  const count = () => { picked.textContent = picked.dataset.words.replace('{n}', list.querySelectorAll('input[name="job"]:checked').length); };
  list.addEventListener('change', count);
  document.querySelector('#bulk').addEventListener('reset', () => setTimeout(() => {
    for (const each of list.querySelectorAll('input[name="job"]:checked')) each.checked = false;
  }));
  addEventListener('keydown', event => {
    if (event.key === 'Escape' && !event.target.closest('.menu')) for (const each of list.querySelectorAll('input[name="job"]:checked')) each.checked = false;
  });
}
