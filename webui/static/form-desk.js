// What all parts of the form stand on: the form itself, its fields by their flat names, its words, and the note at the foot.
export const form = document.querySelector('[data-part="form"]');
export const part = (name, root = document) => root.querySelector(`[data-part="${name}"]`);
export const parts = (name, root = document) => [...root.querySelectorAll(`[data-part="${name}"]`)];
export const cards = JSON.parse(form.dataset.cards);

const words = JSON.parse(form.dataset.words);
export const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key] ?? '');

export const field = name => form.elements.namedItem(name);
export const kind = () => field('kind').value;
export const model = () => cards.find(card => card.name === field('model').value);

export const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// -- what is seen counts ---------------------------------------------------------------------------------------------------
const hides = control => {
  for (let at = control.parentElement; at && at !== form; at = at.parentElement) {
    if (at.dataset.for && !at.dataset.for.split(' ').includes(kind())) return true;
    if (at.dataset.option && !control.name.endsWith('.on') && !field(`${at.dataset.option}.on`).checked
        && !(at.dataset.option === 'upscale' && kind() === 'upscale')) return true;
  }
  return control.disabled;
};

// Texts, choices and switches of the form by name; a style may be there several times. No pictures, they are files.
export const controls = () => [...form.elements].filter(each =>
  each.name && !['file', 'submit', 'button', 'fieldset'].includes(each.type) && !['form', 'zone', 'style-name'].includes(each.name));

export const values = ({ seen = false } = {}) => {
  const found = [];
  for (const each of controls()) {
    if (['checkbox', 'radio'].includes(each.type) ? !each.checked : !each.value) continue;
    if (!seen || !hides(each)) found.push([each.name, each.value]);
  }
  return found;
};

// Fill the form with [name, value] pairs; fields that are not named become empty unless they are in `keep`. What has no place,
// for it names something that this server has not, is returned.
export const fill = (pairs, keep = () => false) => {
  const wanted = new Map();
  for (const [name, value] of pairs) wanted.set(name, [...(wanted.get(name) ?? []), String(value)]);
  for (const name of wanted.keys()) room(name);
  const homeless = [...wanted.keys()].filter(name => !field(name));
  for (const each of controls()) {
    const given = wanted.get(each.name);
    if (!given && keep(each.name)) continue;
    if (each.type === 'radio') each.checked = given ? given.includes(each.value) : each.defaultChecked;
    else if (each.type === 'checkbox') each.checked = given?.includes(each.value) ?? false;
    else if (each.tagName === 'SELECT') {
      const options = [...each.options].map(option => option.value);
      if (given && !options.includes(given[0])) homeless.push(each.name);
      else if (given || !keep(each.name)) each.value = given ? given[0] : each.name === 'model' ? form.dataset.defaultModel : options[0];
    } else each.value = given ? given[0] : '';
  }
  for (const [name] of wanted) field(name)?.closest?.('details')?.setAttribute('open', '');
  form.dispatchEvent(new CustomEvent('filled'));
  return homeless;
};

// -- rows of a list: one more, with the next number ------------------------------------------------------------------------
export const addRow = near => {
  const rows = [...near.querySelectorAll('[data-row]')], last = rows.at(-1);
  if (!last || rows.length >= +part('add-row', near).dataset.most) return null;
  const number = rows.length, fresh = last.cloneNode(true);
  const renumber = text => text.replace(/(loras|controls)\.\d+/g, `$1.${number}`);
  fresh.dataset.row = number;
  for (const each of fresh.querySelectorAll('*')) {
    for (const name of ['id', 'name', 'for', 'data-slot']) if (each.hasAttribute(name)) each.setAttribute(name, renumber(each.getAttribute(name)));
    if ('value' in each && each.tagName !== 'OPTION') each.value = '';
    if (each.classList.contains('mistake')) each.remove();
    if (['picture', 'shown', 'drop-picture'].includes(each.dataset.part)) { each.removeAttribute('src'); each.hidden = each.dataset.part !== 'picture'; }
    each.removeAttribute('aria-invalid');
    each.classList.remove('full');
  }
  const legend = fresh.querySelector('legend');
  if (legend) legend.textContent = legend.textContent.replace(/\d+/, number + 1);
  last.after(fresh);
  return fresh;
};

const room = name => {
  const [list, number] = name.split('.');
  const near = ['loras', 'controls'].includes(list) && /^\d+$/.test(number) && form.querySelector(`[data-part="${list}"], [data-option="${list}"]`);
  while (near && near.querySelectorAll('[data-row]').length <= +number && addRow(near));
};

// The empty row behind the filled ones is for those who have no script.
for (const last of form.querySelectorAll('[data-row]:not([data-row="0"])')) {
  if (!last.nextElementSibling?.dataset.row && ![...last.querySelectorAll('input, select')].some(each => each.value)) last.remove();
}

form.addEventListener('click', event => {
  const button = event.target.closest('[data-part="add-row"]');
  if (button) addRow(button.closest('details, .option'))?.querySelector('select')?.focus();
});

// -- the note at the foot: says something, offers something, goes away ------------------------------------------------------
let leaving = null;
export const toast = (text, buttons = [], seconds = 8) => {
  const box = part('toast');
  clearTimeout(leaving);
  part('toast-says').textContent = text;
  const hide = () => { box.hidden = true; };
  part('toast-buttons').replaceChildren(...[...buttons, [say('close'), () => {}]].map(([label, act]) =>
    make('button', { type: 'button', className: 'quiet', textContent: label, onclick: () => { hide(); act(); } })));
  box.hidden = false;
  if (seconds) leaving = setTimeout(() => { if (!box.matches(':focus-within, :hover')) hide(); }, seconds * 1000);
};
