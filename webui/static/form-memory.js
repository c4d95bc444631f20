// What the form remembers in this browser: its fields, not its pictures. A link to it, and a fresh start.
import { field, fill, form, part, say, toast, values } from './form-desk.js';

const KEY = 'sdspool.form';
const read = () => { try { return JSON.parse(localStorage.getItem(KEY)); } catch { return null; } };
const write = pairs => { try { localStorage.setItem(KEY, JSON.stringify(pairs)); } catch { /* a browser that keeps nothing */ } };

let due = null;
const keep = () => { clearTimeout(due); due = setTimeout(() => write(values()), 200); };
addEventListener('pagehide', () => write(values()));

const before = read();
if ('given' in form.dataset) {
  // A link's settings become the form's own, so that a reload keeps what is changed in them; what was there is offered back.
  history.replaceState(null, '', form.getAttribute('action'));
  write(values());
  if (before?.some(([name, value]) => name === 'prompt' && value && value !== field('prompt').value)) {
    toast(say('changed'), [[say('mine'), () => fill(before)]]);
  }
} else if (before && !document.querySelector('.mistake')) fill(before);
form.addEventListener('input', keep);
form.addEventListener('change', keep);
form.addEventListener('filled', keep);

part('reset').addEventListener('click', () => {
  const had = values();
  fill([], name => name === 'owner');
  form.querySelectorAll('details[open]').forEach(each => each.removeAttribute('open'));
  form.dispatchEvent(new CustomEvent('emptied'));
  field('prompt').focus();
  toast(say('reset'), [[say('undo'), () => fill(had)]]);
});

part('copy-link').addEventListener('click', async () => {
  const quiet = ['form', 'owner', 'kind', 'held'];
  const pairs = values({ seen: true }).filter(([name, value]) => !quiet.includes(name) && !(name === 'inpaint_area' && value === 'whole'));
  const link = new URL(form.getAttribute('action'), location.href);
  link.search = new URLSearchParams(pairs);
  try {
    await navigator.clipboard.writeText(link.href);
    toast(say('copied'));
  } catch { // no secure context: plain http on a LAN has no clipboard
    prompt(say('link'), link.href);
  }
});
