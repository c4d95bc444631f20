"""What there is: models, samplers, upscalers, ... and the options. Each item has exactly A1111's keys, for strict clients."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from spooler import samplers
from spooler.catalogue import Catalogue
from spooler.mistakes import show
from webui.office import office
from webui.people import person
from webui.rules import Rule, needs
from webui.sdapi import names, translate
from webui.sdapi.bodies import object_in
from webui.sdapi.errors import AnswerError
from webui.sdapi.kept import kept

blueprint = Blueprint("sdapi_lists", __name__)


def _catalogue() -> Catalogue:
    return office().reports.ready().catalogue


@blueprint.get("/sdapi/v1/samplers")
def all_samplers() -> Response:
    return jsonify([{"name": each.name, "aliases": list(each.aliases), "options": {}} for each in samplers.SAMPLERS])


@blueprint.get("/sdapi/v1/schedulers")
def schedulers() -> Response:
    aliases = {ours: theirs for theirs, ours in names.SAME_SCHEDULE.items()}
    return jsonify(
        [
            {
                "name": label.lower().replace(" ", "_"),
                "label": label,
                "aliases": [aliases[label]] if label in aliases else None,
                "default_rho": 7.0 if label == "Karras" else -1.0,
                "need_inner_model": False,
            }
            for label in samplers.SCHEDULE_NAMES
        ]
    )


@blueprint.get("/sdapi/v1/sd-models")
def sd_models() -> Response:
    return jsonify(
        [
            {
                "title": names.title(card),
                "model_name": card.name,
                "hash": card.hash[:10] if card.hash else None,
                "sha256": card.hash,
                # Not its path: where the server keeps its files is nobody's business.
                "filename": card.name,
                "config": None,
            }
            for card in _catalogue().models
        ]
    )


@blueprint.get("/sdapi/v1/sd-vae")
def sd_vae() -> Response:
    return jsonify([{"model_name": name, "filename": name} for name in _catalogue().vaes])


@blueprint.get("/sdapi/v1/upscalers")
def upscalers() -> Response:
    return jsonify(
        [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
            for name in ("None", *_catalogue().upscalers)
        ]
    )


@blueprint.get("/sdapi/v1/latent-upscale-modes")
def latent_upscale_modes() -> Response:
    return jsonify([{"name": "Latent"}])


@blueprint.get("/sdapi/v1/loras")
def loras() -> Response:
    return jsonify([{"name": name, "alias": name, "path": name, "metadata": {}} for name in _catalogue().loras])


@blueprint.get("/sdapi/v1/embeddings")
def embeddings() -> Response:
    """Those that the models may read; how many vectors one has is known on the other side of the spool only: 0."""
    catalogue = _catalogue()
    loaded = {
        name: {
            "step": None,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
            "shape": catalogue.made_for.get(f"embeddings/{name}", 0),
            "vectors": 0,
        }
        for name in catalogue.embeddings
    }
    return jsonify(loaded=loaded, skipped={})


@blueprint.get("/sdapi/v1/<any('hypernetworks', 'face-restorers', 'realesrgan-models', 'prompt-styles', 'extensions'):name>")
def none_of(name: str) -> Response:
    """Of these there is nothing here."""
    return jsonify([])


@blueprint.get("/sdapi/v1/scripts")
def scripts() -> Response:
    known = ["controlnet"] if _catalogue().controlnets else []
    return jsonify(txt2img=known, img2img=known)


@blueprint.get("/sdapi/v1/script-info")
def script_info() -> Response:
    known = [False, True] if _catalogue().controlnets else []
    return jsonify([{"name": "controlnet", "is_alwayson": True, "is_img2img": each, "args": []} for each in known])


@blueprint.get("/controlnet/model_list")
def controlnet_models() -> Response:
    return jsonify(model_list=list(_catalogue().controlnets))


@blueprint.get("/controlnet/module_list")
def controlnet_modules() -> Response:
    return jsonify(module_list=["none"], module_detail={"none": {"model_free": False, "sliders": []}})


@blueprint.get("/sdapi/v1/cmd-flags")
def cmd_flags() -> Response:
    """The switches of A1111's command line that mean something here. No path of the server is told."""
    settings = office().settings
    return jsonify(
        api=True,
        nowebui=False,
        listen=settings.host not in ("127.0.0.1", "::1", "localhost"),
        port=settings.port,
        api_auth=None,
        gradio_auth=None,
        cors_allow_origins=None,
        cors_allow_origins_regex=None,
        api_server_stop=False,
        share=False,
    )


@blueprint.get("/sdapi/v1/options")
def options() -> Response:
    catalogue, chosen = _catalogue(), kept().options(person().name)
    card = catalogue.card(chosen.model)
    return jsonify(
        samples_save=True,
        samples_format="png",
        send_seed=True,
        sd_model_checkpoint=names.title(card) if card else None,
        sd_checkpoint_hash=(card.hash if card else None) or "",
        sd_vae=chosen.vae or "Automatic",
        CLIP_stop_at_last_layers=chosen.clip_skip,
        randn_source="CPU",
        eta_noise_seed_delta=0,
        enable_emphasis=True,
        live_previews_enable=office().settings.preview_s > 0,
        show_progress_every_n_steps=1,
        return_grid=True,
        do_not_show_images=False,
    )


@blueprint.post("/sdapi/v1/options")
@needs(Rule.LET_IN)
def set_options() -> Response:
    """Keep the model, the VAE and the clip skip; what has no effect is taken, what would change pictures and cannot is told."""
    given = object_in(request.get_data(cache=False))
    catalogue = _catalogue()
    changes: dict[str, Any] = {}
    if (wanted := given.get("sd_model_checkpoint")) not in (None, ""):
        card = names.model(str(wanted), catalogue)
        if card is None:
            raise AnswerError(500, "", "RuntimeError", f"model {show(str(wanted))} not found")
        changes["model"] = "" if card.name == catalogue.default else card.name
    if (wanted := given.get("sd_vae")) is not None:
        vae = translate.vae_named(wanted, catalogue)
        if vae and vae not in catalogue.vaes:
            raise AnswerError(500, "", "RuntimeError", f"vae {show(vae)} not found")
        changes["vae"] = vae
    if (wanted := given.get("CLIP_stop_at_last_layers")) is not None:
        try:
            changes["clip_skip"] = int(wanted)
        except (TypeError, ValueError, OverflowError):
            changes["clip_skip"] = 0
        if not 1 <= changes["clip_skip"] <= 12:
            rule = "`CLIP_stop_at_last_layers` must be a whole number from 1 to 12"
            raise AnswerError(500, "", "RuntimeError", f"{rule}, but is {show(wanted)}.")
    for name, value in translate.FIXED.items():
        if given.get(name) is not None and str(given[name]).lower() != str(value).lower():
            rule = f"`{name}` must be {value}: the engine has no other"
            raise AnswerError(500, "", "RuntimeError", f"{rule}, but is {show(given[name])}.")
    kept().change(person().name, changes)
    return jsonify(None)


@blueprint.post("/sdapi/v1/<any('refresh-checkpoints', 'refresh-vae', 'refresh-embeddings', 'refresh-loras'):name>")
@needs(Rule.LET_IN)
def refresh(name: str) -> Response:
    """Nothing to do: the spoolers tell of new files by themselves."""
    return jsonify(None)


@blueprint.post("/sdapi/v1/<any('unload-checkpoint', 'reload-checkpoint'):name>")
@needs(Rule.LET_IN)
def load(name: str) -> Response:
    """Nothing to do: the engine decides by itself which models stay loaded."""
    return jsonify({})
