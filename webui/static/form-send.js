// Sending: the job goes by fetch and the page stays; mistakes are shown beside their fields and the first is gone to.
import { form, make, part, say, toast } from './form-desk.js';
import { mask } from './form-easel.js';
import { watch } from './form-stage.js';

const button = part('generate', form);

const forget = () => {
  form.querySelectorAll('.mistake').forEach(each => each.remove());
  form.querySelectorAll('[aria-invalid]').forEach(each => {
    each.removeAttribute('aria-invalid');
    const rest = (each.getAttribute('aria-describedby') ?? '').split(' ').filter(id => id && !id.includes('-mistake'));
    if (rest.length) each.setAttribute('aria-describedby', rest.join(' ')); else each.removeAttribute('aria-describedby');
  });
};
const spot = name => {
  const named = form.elements.namedItem(name), control = named instanceof RadioNodeList ? named[0] : named;
  const box = control && (control.closest('.field, .slot') ?? control.closest('.option'));
  if (box) return [box, control];
  const option = form.querySelector(`[data-option="${name}"], details[data-part="${name === 'style' ? 'styles' : name}"]`);
  return option ? [option, option.querySelector('input, select, summary')] : [part('alert', form), null];
};
export const blame = mistakes => {
  forget();
  const blamed = [];
  for (const [name, sentences] of Object.entries(mistakes)) {
    const [box, control] = spot(name);
    sentences.forEach((sentence, at) => {
      const told = make('p', { className: 'mistake', id: `${name}-mistake${at || ''}`, textContent: sentence });
      const inside = box.querySelector(':scope > .inside');
      if (inside) inside.before(told); else box.append(told);
    });
    if (!control) continue;
    control.setAttribute('aria-invalid', 'true');
    control.setAttribute('aria-describedby', [`${name}-mistake`, control.getAttribute('aria-describedby')].filter(Boolean).join(' '));
    for (let at = control.closest('details'); at; at = at.parentElement.closest('details')) at.open = true;
    blamed.push(control);
  }
  blamed.sort((one, two) => one.compareDocumentPosition(two) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
  (blamed.find(each => each.checkVisibility?.() ?? true) ?? part('alert', form)).focus();
};

let sending = false;
export const send = async () => {
  if (sending) return; // a double click makes one job
  sending = true;
  button.setAttribute('aria-busy', 'true');
  try {
    const body = new FormData(form), painted = await mask();
    if (painted) body.set('mask', painted, 'mask.png');
    const answer = await fetch(form.action, { method: 'POST', body, headers: { Accept: 'application/json' } });
    const text = await answer.text(), isJson = answer.headers.get('Content-Type')?.startsWith('application/json');
    const told = isJson ? JSON.parse(text) : null;
    if (answer.ok && told?.id) {
      forget();
      watch(told.id);
    } else if (told?.error) {
      const { fields, message } = told.error;
      blame(Object.keys(fields ?? {}).length ? fields : { '': [message] });
    } else {
      // Refused before the form was looked at, with a page that says why: too large, say.
      const why = new DOMParser().parseFromString(text, 'text/html').querySelector('h1')?.textContent;
      toast(say('failed', { why: why ?? `${answer.status} ${answer.statusText}` }), [], 15);
    }
  } catch (error) {
    toast(say('failed', { why: error.message }));
  } finally {
    sending = false;
    button.removeAttribute('aria-busy');
  }
};

form.addEventListener('submit', event => {
  if (event.submitter?.name === 'do') return;
  event.preventDefault();
  send();
});
