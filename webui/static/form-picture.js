// Pictures: chosen, dropped, pasted. A picture that is dropped beside the places for one gives the form its settings.
import { controls, field, fill, form, make, part, say, toast, values } from './form-desk.js';
import { setKind } from './form-fields.js';

const PICTURE = /^image\/(png|jpeg|webp)$/;
const input = slot => form.querySelector(`[data-slot="${slot}"] input[type=file]`);
const source = slot => field(`${slot}.from`);

// -- one place for a picture -------------------------------------------------------------------------------------------------
const show = (slot, url) => {
  const box = form.querySelector(`[data-slot="${slot}"]`);
  if (!box) return;
  const picture = part('picture', box);
  part('shown', box).hidden = part('drop-picture', box).hidden = !url;
  part('drop', box).classList.toggle('full', Boolean(url));
  if (url) picture.src = url; else picture.removeAttribute('src');
  if (!url) form.dispatchEvent(new CustomEvent('picture', { detail: { slot, picture: null } }));
};
const read = file => new Promise((done, fail) => {
  const reader = new FileReader();
  Object.assign(reader, { onload: () => done(reader.result), onerror: () => fail(reader.error) });
  reader.readAsDataURL(file); // a data: address is what the page's own rules let in
});

export const put = async (slot, file) => {
  if (!PICTURE.test(file.type)) return toast(say('notPicture'));
  const carrier = new DataTransfer();
  carrier.items.add(file);
  input(slot).files = carrier.files;
  source(slot).value = '';
  if (slot === 'image' && kindNow() === 'txt2img') setKind('img2img');
  show(slot, await read(file));
};
const kindNow = () => field('kind').value;

form.addEventListener('change', event => {
  const box = event.target.type === 'file' && event.target.closest('[data-slot]');
  if (box && event.target.files[0]) put(box.dataset.slot, event.target.files[0]);
});
form.addEventListener('click', event => {
  const box = event.target.closest('[data-part="drop-picture"]')?.closest('[data-slot]');
  if (!box) return;
  input(box.dataset.slot).value = source(box.dataset.slot).value = '';
  show(box.dataset.slot, null);
  input(box.dataset.slot).focus();
  form.dispatchEvent(new Event('change', { bubbles: true }));
});
// The easel hears of each picture when its size is known.
form.addEventListener('load', event => {
  const box = event.target.dataset.part === 'picture' && event.target.closest('[data-slot]');
  if (box) form.dispatchEvent(new CustomEvent('picture', { detail: { slot: box.dataset.slot, picture: event.target } }));
}, true);
const sources = () => form.querySelectorAll('[data-slot]').forEach(box => {
  const { slot } = box.dataset, from = source(slot).value;
  if (input(slot).files.length) return;
  const url = from ? `source/${encodeURIComponent(from)}` : null;
  if (url || !part('shown', box).hidden) show(slot, url);
});
form.addEventListener('filled', sources);
form.addEventListener('emptied', () => form.querySelectorAll('[data-slot]').forEach(box => {
  input(box.dataset.slot).value = '';
  show(box.dataset.slot, null);
}));

// -- the settings in a picture -----------------------------------------------------------------------------------------------
const KEEP = ['owner', 'priority', 'model', 'kind', 'held', 'not_before', 'expires_at', 'after', 'image.from', 'mask.from'];
const take = async file => {
  const usable = PICTURE.test(file.type) ? [[say('asPicture'), () => put('image', file)]] : [];
  toast(say('reading'), [], 0);
  const body = new FormData();
  body.set('file', file);
  let told;
  try {
    const answer = await fetch('api/v1/metadata', { method: 'POST', body });
    told = await answer.json();
    if (!answer.ok) return toast(told.error.message, usable, 15);
  } catch (error) {
    return toast(say('failed', { why: error.message }), usable);
  }
  const had = values(), pairs = Object.entries(told.flat);
  for (const name of ['hires', 'refiner', 'upscale', 'controls']) if (pairs.some(([each]) => each.startsWith(`${name}.`))) pairs.push([`${name}.on`, 'on']);
  if (Number(told.flat.variation_strength)) pairs.push(['variation.on', 'on']);
  if (told.flat.sweep) pairs.push(['sweep.on', 'on']);
  const homeless = fill(pairs, name => KEEP.includes(name)).map(name => `${name} ${told.flat[name] ?? ''}`.trim());
  const left = [...homeless, ...told.left_out];
  toast([say('taken', told), left.length ? say('leftOut', { names: left.join(', ') }) : ''].join(' ').trim(),
    [[say('undo'), () => fill(had)], ...usable], left.length ? 30 : 10);
};

// -- drag and drop, the clipboard ------------------------------------------------------------------------------------------------
const veil = part('dropping');
const carries = event => [...event.dataTransfer.types].some(type => type === 'Files' || type === 'text/uri-list');
let depth = 0;
addEventListener('dragenter', event => { if (carries(event)) { depth += 1; veil.hidden = false; } });
addEventListener('dragleave', event => { if (carries(event)) { depth -= 1; if (depth <= 0) { depth = 0; veil.hidden = true; } } });
addEventListener('dragover', event => {
  if (!carries(event)) return;
  event.preventDefault();
  document.querySelectorAll('.drop.over').forEach(each => each.classList.remove('over'));
  event.target.closest?.('.drop')?.classList.add('over');
});
// A picture of the page's own, dragged from the list or from another window of it.
const fetched = async event => {
  const url = event.dataTransfer.getData('text/uri-list').split(/\r?\n/)[0];
  if (!url || new URL(url, location.href).origin !== location.origin) return null;
  const blob = await (await fetch(url)).blob();
  return new File([blob], 'picture.png', { type: blob.type });
};
addEventListener('drop', async event => {
  if (!carries(event)) return;
  event.preventDefault();
  depth = 0;
  veil.hidden = true;
  document.querySelectorAll('.drop.over').forEach(each => each.classList.remove('over'));
  const slot = event.target.closest?.('[data-slot]')?.dataset.slot;
  const file = event.dataTransfer.files[0] ?? await fetched(event);
  if (file) await (slot ? put(slot, file) : take(file));
});
addEventListener('paste', event => {
  const file = [...event.clipboardData.files].find(each => PICTURE.test(each.type));
  if (!file) return;
  event.preventDefault();
  put(document.activeElement?.closest('[data-slot]')?.dataset.slot ?? 'image', file);
});
sources();
