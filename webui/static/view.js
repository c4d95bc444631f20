// Looking at pictures: the picture alone (arrows, zoom), and two over each other. Without this file a link opens the picture.
'use strict';
const the = (name, root = document) => root.querySelector(`[data-part="${name}"]`);

// -- the picture alone -----------------------------------------------------------------------------------------------------------
const box = the('box');
if (box) {
  const large = the('large', box), pane = the('pane', box), zoom = the('zoom', box);
  const links = () => [...document.querySelectorAll('a[data-zoom]')];
  let at = 0;
  const full = on => {
    pane.classList.toggle('full', on);
    zoom.setAttribute('aria-pressed', String(on));
  };
  const show = index => {
    const all = links();
    at = (index + all.length) % all.length;
    const link = all[at], picture = link.querySelector('img');
    full(false);
    large.src = link.href;
    large.alt = picture.alt;
    the('caption', box).textContent = `${at + 1} / ${all.length} · ${link.dataset.zoom}`;
    for (const button of box.querySelectorAll('[data-go]')) button.hidden = all.length < 2;
  };
  addEventListener('click', event => {
    const link = event.target.closest?.('a[data-zoom]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    show(links().indexOf(link));
    box.showModal();
    pane.focus();
  });
  box.addEventListener('close', () => { links()[at]?.focus(); large.removeAttribute('src'); });
  box.addEventListener('click', event => {
    const go = event.target.closest('[data-go]');
    if (go) show(at + Number(go.dataset.go));
    else if (event.target === large || event.target.closest('[data-part="zoom"]')) full(!pane.classList.contains('full'));
    else if (event.target === pane || event.target.closest('[data-part="close"]')) box.close();
  });
  const rtl = document.documentElement.dir === 'rtl' ? -1 : 1;
  const way = key => ({ ArrowRight: rtl, ArrowLeft: -rtl })[key];
  box.addEventListener('keydown', event => {
    const zoomed = pane.classList.contains('full');
    if (way(event.key) && !zoomed) show(at + way(event.key));
    else if (event.key === 'Home') show(0);
    else if (event.key === 'End') show(-1);
    else if (['+', '=', 'z', 'Z'].includes(event.key)) full(!zoomed || event.key === '+' || event.key === '=');
    else if (event.key === '-') full(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  let from = null; // a swipe
  pane.addEventListener('pointerdown', event => { from = event.pointerType === 'touch' ? event.clientX : null; });
  pane.addEventListener('pointerup', event => {
    const moved = from === null || pane.classList.contains('full') ? 0 : event.clientX - from;
    from = null;
    if (Math.abs(moved) > 60) show(at + (moved < 0 ? rtl : -rtl));
  });
  // On the page: from picture to picture, and past the last to the next job.
  addEventListener('keydown', event => {
    const step = way(event.key);
    if (!step || box.open || event.altKey || event.ctrlKey || event.metaKey || event.target.closest('input, textarea, select, [contenteditable], pre, .menu')) return;
    const all = links(), now = all.indexOf(document.activeElement), next = all[now < 0 ? (step > 0 ? 0 : -1) : now + step];
    if (next && (all.length > 1 || now < 0 && step > 0)) { next.focus(); event.preventDefault(); return; }
    const beside = document.querySelector(step > 0 ? 'a[rel="next"]' : 'a[rel="prev"]');
    if (beside) location.href = beside.href;
  });
}

// -- two pictures over each other -----------------------------------------------------------------------------------------------
const layers = the('layers');
if (layers) {
  const slider = the('slider');
  const split = value => { slider.value = value; layers.style.setProperty('--at', `${slider.value}%`); };
  const drag = event => {
    const frame = layers.getBoundingClientRect();
    split(100 * (event.clientX - frame.left) / frame.width);
  };
  slider.addEventListener('input', () => split(slider.value));
  layers.addEventListener('pointerdown', event => { layers.setPointerCapture(event.pointerId); drag(event); event.preventDefault(); });
  layers.addEventListener('pointermove', event => { if (layers.hasPointerCapture(event.pointerId)) drag(event); });
  split(slider.value);
  the('sides')?.addEventListener('change', event => event.currentTarget.requestSubmit());
}
