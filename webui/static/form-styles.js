// Styles without leaving the page: save, remove, write into the prompt.
import { field, form, make, part, say, toast } from './form-desk.js';

const box = part('styles'), list = part('style-list');
const chosen = () => [...list.querySelectorAll('input:checked')].map(each => each.value);
const url = name => `api/v1/styles/${encodeURIComponent(name)}`;
let texts = {};

const laidOver = (prompt, snippet) => snippet.includes('{prompt}') ? snippet.replaceAll('{prompt}', prompt.trim())
  : [snippet ? prompt.trim().replace(/,+$/, '') : prompt, snippet].filter(Boolean).join(', ');

const refresh = async () => {
  const { styles } = await (await fetch('api/v1/styles', { cache: 'no-store' })).json();
  const kept = chosen();
  texts = Object.fromEntries(styles.map(style => [style.name, style]));
  list.replaceChildren(...styles.map(style => {
    const input = make('input', { type: 'checkbox', name: 'style', value: style.name, checked: kept.includes(style.name) });
    const label = make('label', { className: 'chip', title: (style.prompt || style.negative_prompt).slice(0, 200) }, input, make('span', { textContent: style.name }));
    return make('li', {}, label);
  }));
  part('styles-count').textContent = styles.length || '';
  part('style-hint').hidden = styles.length > 0;
};

const ask = async (name, options) => {
  const answer = await fetch(url(name), options);
  if (answer.ok) return true;
  const told = await answer.json().catch(() => null);
  toast(told?.error?.message ?? say('failed', { why: answer.status }));
  return false;
};

part('save-style', box).addEventListener('click', async event => {
  event.preventDefault();
  const name = field('style-name').value.trim();
  if (!name) return field('style-name').focus();
  const body = JSON.stringify({ prompt: field('prompt').value, negative_prompt: field('negative_prompt').value });
  if (await ask(name, { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body })) {
    field('style-name').value = '';
    await refresh();
    toast(say('saved'));
  }
});
field('style-name').addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.ctrlKey) { event.preventDefault(); part('save-style', box).click(); }
});
part('remove-style', box).addEventListener('click', async event => {
  event.preventDefault();
  const names = chosen();
  if (!names.length) return toast(say('chooseStyle'));
  for (const name of names) await ask(name, { method: 'DELETE' });
  await refresh();
  toast(say('removed'));
});
part('apply-styles', box).addEventListener('click', async () => {
  await refresh();
  if (!chosen().length) return toast(say('chooseStyle'));
  for (const name of chosen()) {
    for (const prompt of ['prompt', 'negative_prompt']) field(prompt).value = laidOver(field(prompt).value, texts[name][prompt]);
  }
  list.querySelectorAll('input').forEach(each => { each.checked = false; });
  form.dispatchEvent(new CustomEvent('filled'));
  field('prompt').focus();
});
