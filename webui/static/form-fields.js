// The fields: what follows the chosen model, sizes, seeds, steps by the arrow keys.
import { field, form, kind, model, part, parts, say, toast } from './form-desk.js';

const changed = input => input.dispatchEvent(new Event('input', { bubbles: true }));
const put = (name, value) => { field(name).value = value; changed(field(name)); };

// -- the model's own defaults, and what its family cannot do ----------------------------------------------------------------
const follow = () => {
  const card = model();
  if (!card) return;
  for (const [name, value] of Object.entries(card.defaults)) if (field(name).tagName === 'INPUT') field(name).placeholder = value;
  // What starts from a picture takes its size.
  if (['img2img', 'inpaint'].includes(kind())) for (const name of ['width', 'height']) field(name).placeholder = say('pictureSize');
  const own = part('own-sampler');
  own.textContent = `${card.defaults.sampler} (${own.textContent.replace(/^.*\((.*)\)$/, '$1')})`;
  part('family').textContent = card.family;
  parts('shapes').forEach(shapes => [...shapes.children].forEach((chip, at) => {
    const [width, height] = card.sizes[at];
    Object.assign(chip.dataset, { width, height });
    chip.title = `${width} × ${height}`;
  }));
  for (const box of form.querySelectorAll('[data-lack]')) {
    const lacks = card.lacking.includes(box.dataset.lack);
    box.classList.toggle('lacks', lacks);
    box.title = lacks ? say('lacks') : '';
    box.querySelectorAll('input, select, textarea').forEach(each => { each.disabled = lacks; });
  }
  for (const radio of field('kind')) radio.disabled = card.lacking.includes(radio.value) && !radio.checked;
  schedules();
  mark();
};

// Only the schedules that the sampler has.
const schedules = () => {
  const chosen = field('sampler').selectedOptions[0];
  const sampler = chosen?.dataset.schedules ? chosen : [...field('sampler').options].find(each => each.value === model()?.defaults.sampler);
  const known = sampler?.dataset.schedules?.split(',');
  for (const option of field('scheduler').options) option.disabled = Boolean(known && option.value && !known.includes(option.value));
  if (field('scheduler').selectedOptions[0]?.disabled) field('scheduler').value = '';
};

// -- sizes -----------------------------------------------------------------------------------------------------------------
const size = () => ['width', 'height'].map(name => field(name).value || field(name).placeholder);
const mark = () => {
  const [width, height] = size();
  form.querySelectorAll('[data-width]').forEach(chip =>
    chip.setAttribute('aria-pressed', chip.dataset.width === width && chip.dataset.height === height));
};

form.addEventListener('click', event => {
  const chip = event.target.closest('[data-width]'), button = event.target.closest('[data-part]');
  if (chip) { put('width', chip.dataset.width); put('height', chip.dataset.height); }
  if (button?.dataset.part === 'swap') {
    const [width, height] = size().map(side => parseInt(side) || '');
    put('width', height);
    put('height', width);
  }
  if (button?.dataset.part === 'dice') {
    const input = button.parentElement.querySelector('input');
    input.value = crypto.getRandomValues(new Uint32Array(1))[0];
    changed(input);
  }
  if (button?.dataset.part === 'recycle') {
    const last = localStorage.getItem('sdspool.seed');
    if (last === null) toast(say('noSeed')); else put('seed', last);
  }
});

// -- the arrow keys in a number --------------------------------------------------------------------------------------------
form.addEventListener('keydown', event => {
  const step = Number(event.target.dataset?.step), up = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!step || !up || event.ctrlKey || event.metaKey || event.altKey) return;
  const now = parseFloat(event.target.value || event.target.placeholder);
  if (Number.isNaN(now)) return;
  event.preventDefault();
  event.target.value = String(+Math.max(0, now + up * step * (event.shiftKey ? 10 : 1)).toFixed(4));
  changed(event.target);
});

form.addEventListener('change', event => {
  if (event.target === form || ['model', 'kind'].includes(event.target.name)) follow();
  if (event.target.name === 'sampler') schedules();
});
form.addEventListener('input', mark);
form.addEventListener('filled', follow);
field('zone').value = new Date().getTimezoneOffset();
follow();

export const setKind = wanted => {
  if (kind() === wanted) return;
  for (const radio of field('kind')) radio.checked = radio.value === wanted;
  form.dispatchEvent(new Event('change', { bubbles: true }));
};
