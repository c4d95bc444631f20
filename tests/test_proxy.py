"""Behind a reverse proxy, S12 and S13: the real nginx and the real Caddy with the configurations of deploy/, over TLS, under a
prefix, with the outside name; the pages in a real browser and the APIs by their own clients."""

from __future__ import annotations

import base64
import getpass
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import webuiapi
from browser import console, open_browser
from house import ROOT, Spooler, missing, spooler, wait_for
from people import make_app
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_keys import Started

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import MAX_REQUEST_BYTES
from webui.proxies import ProxyError, checked_prefix, networks

NAME, KEY = "images.example.org", "ops-secret-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
RED = "a large red circle on a blue background"


@dataclass
class House:
    """A spooler and a web app under /sd whose trusted proxies are those of this machine's own address."""

    root: Path
    port: int
    spooler: Spooler
    web: Started

    @property
    def log(self) -> str:
        return (self.root / "said").read_text()


@dataclass
class Proxy:
    """A proxy in front of it. `address` is another one for each, and the clients' own: the web app counts by it."""

    port: int
    house: House
    context: ssl.SSLContext
    address: str

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    def connect(self, address: str = "", name: str = NAME) -> http.client.HTTPSConnection:
        source = (address or self.address, 0)
        return http.client.HTTPSConnection(name, self.port, timeout=120, context=self.context, source_address=source)

    def ask(
        self, method: str, path: str, body: Any = None, *, address: str = "", name: str = NAME, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body, read as JSON when it is; `X_Y` in the headers' names is `X-Y`."""
        sent = {each.replace("_", "-"): value for each, value in headers.items()}
        connection = self.connect(address)
        try:
            data = body if isinstance(body, bytes | str | None) else json.dumps(body)
            kind = {} if isinstance(body, bytes | str | None) else {"Content-Type": "application/json"}
            host = {} if name == NAME else {"Host": name}
            connection.request(method, path, data, {**AUTH, **kind, **host, **sent})
            answer = connection.getresponse()
            raw = answer.read()
            return answer.status, answer.headers, json.loads(raw) if "json" in answer.headers.get_content_type() else raw
        finally:
            connection.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root, port = tmp_path_factory.mktemp("proxied"), free_port()
    (root / "keys").write_text(f"ops operator {KEY}\n")
    (root / "keys").chmod(0o600)
    spool = Spool(root / "spool")
    spool.create()
    own = ("--port", str(port), "--prefix", "/sd", "--trusted-proxies", "127.0.0.1,10.0.0.0/8", "--allowed-hosts", NAME)
    web = Started(root, *own)
    try:
        with spooler(spool) as running:
            assert f"http://127.0.0.1:{port}/sd" in web.said("1 key")
            yield House(root, port, running, web)
    finally:
        web.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the name, and its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    made = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-noenc",
        "-days",
        "2",
        "-subj",
        f"/CN={NAME}",
    ]
    openssl(
        *made, "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")
    )
    return folder / "cert.pem"


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, house: House, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    serve = {"nginx": nginx, "caddy": caddy}[request.param]
    resolve = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch, serve(folder, port, house.port, certificate):
        patch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1" if host == NAME else host, *rest, **more)
        )
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        context = ssl.create_default_context(cafile=str(certificate))
        made = Proxy(port, house, context, {"nginx": "127.0.0.2", "caddy": "127.0.0.3"}[request.param])
        wait_for(lambda: listens(port), request.param)
        yield made


@contextmanager
def nginx(folder: Path, port: int, to: int, certificate: Path) -> Iterator[None]:
    program = program_of("nginx")
    site = changed(
        (ROOT / "deploy" / "nginx.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen 80": f"listen 127.0.0.1:{free_port()}",
            "/etc/ssl/certs/images.example.org.pem": str(certificate),
            "/etc/ssl/private/images.example.org.key": str(certificate.with_name("key.pem")),
            "127.0.0.1:7860": f"127.0.0.1:{to}",
        },
    )
    kept = "".join(f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; user {getpass.getuser()};"
    (folder / "nginx.conf").write_text(f"{main} events {{}} http {{ access_log off; {kept}\n{site} }}")
    with running(folder, [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]):
        yield


@contextmanager
def caddy(folder: Path, port: int, to: int, certificate: Path) -> Iterator[None]:
    program = program_of("caddy")
    tls = f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {certificate.with_name('key.pem')}\n"
    site = changed(
        (ROOT / "deploy" / "Caddyfile").read_text(),
        {f"{NAME} {{\n": tls, "127.0.0.1:7860 {\n\t\tt": f"127.0.0.1:{to} {{\n\t\tt"},
    )
    ours = "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n"
    (folder / "Caddyfile").write_text(ours + site)
    with running(folder, [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]):
        yield


@contextmanager
def running(folder: Path, command: list[str]) -> Iterator[None]:
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **home})
    try:
        yield
        assert process.poll() is None, (folder / "out").read_text()
    finally:
        process.terminate()
        process.wait(120)


def program_of(name: str) -> str:
    """The program of the system, or the one that `./run.sh test` unpacked."""
    own = Path(sys.prefix) / "proxies" / "usr"
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{own / 'bin'}:{own / 'sbin'}") or missing(name)


def changed(text: str, changes: dict[str, str]) -> str:
    """The configuration as it is shipped, but for what each place has otherwise."""
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, check=True, capture_output=True).stdout


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- the page --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(proxy: Proxy, certificate: Path, tmp_path: Path) -> Iterator[Chrome]:
    """A browser that knows the outside name, and no other certificate than ours for it."""
    public = openssl("pkey", "-pubin", "-outform", "der", given=openssl("x509", "-in", str(certificate), "-noout", "-pubkey"))
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()
    rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    with open_browser(tmp_path / "profile", switches=(rules, f"--ignore-certificate-errors-spki-list={pin}")) as opened:
        yield opened


def test_a_person_logs_in_draws_a_picture_and_sees_every_page(page: Chrome, proxy: Proxy) -> None:
    """Every address that a page has stays under the prefix, and everything that it needs is found there."""
    page.get(f"{proxy.origin}/sd?steps=3")  # without the slash
    assert page.current_url.startswith(f"{proxy.origin}/sd/login?next=")
    page.find_element(By.NAME, "name").send_keys("ops")
    page.find_element(By.NAME, "key").send_keys(KEY, Keys.ENTER)
    wait_for(lambda: page.current_url.startswith(f"{proxy.origin}/sd/") and "login" not in page.current_url, "to be let in")
    cookie = next(each for each in page.get_cookies() if each["name"] == f"sdspool_{proxy.house.port}")
    assert (cookie["path"], cookie["secure"], cookie["httpOnly"]) == ("/sd", True, True)
    page.get(f"{proxy.origin}/sd/?steps=3")
    wait_for(lambda: page.execute_script("return document.documentElement.classList.contains('js')"), "the script")
    page.find_element(By.NAME, "prompt").send_keys(RED, Keys.CONTROL + Keys.ENTER)
    shown = wait_for(lambda: page.find_elements(By.CSS_SELECTOR, "[data-part=stage-pictures] figure a img"), "the picture")[0]
    wait_for(lambda: page.execute_script("return arguments[0].naturalWidth", shown) == 128, "the picture to be loaded")
    looked_over(page, proxy)
    page.find_element(By.CSS_SELECTOR, "[data-part=stage-pictures] figure a").click()
    wait_for(lambda: "/sd/jobs/" in page.current_url, "the job's page")
    looked_over(page, proxy)
    for path in ("queue", "gallery", "status", "failed"):
        page.get(f"{proxy.origin}/sd/{path}")
        looked_over(page, proxy)
    page.execute_script("document.querySelector('[data-part=theme] [value=dark]').click()")
    wait_for(lambda: page.get_cookie("theme"), "the theme to be remembered")
    theme = page.get_cookie("theme")
    assert theme and (theme["path"], theme["secure"]) == ("/sd", True) and page.current_url == f"{proxy.origin}/sd/failed"
    page.execute_script("document.querySelector('form.signed').submit()")
    wait_for(lambda: page.current_url == f"{proxy.origin}/sd/login", "to be let out")
    assert page.get_cookie(cookie["name"]) is None
    assert console(page) == []


def looked_over(page: Chrome, proxy: Proxy) -> None:
    script = """return [...document.querySelectorAll('[href], [src], [action], [data-live]')].flatMap(each =>
        ['href', 'src', 'action', 'data-live'].map(name => each.getAttribute(name)).filter(Boolean)
        .map(it => new URL(it, location.href).href)).concat(performance.getEntriesByType('resource').map(each => each.name))"""
    seen = {each for each in page.execute_script(script) if not each.startswith(("data:", "blob:"))}
    assert len(seen) > 8 and all(each.startswith(f"{proxy.origin}/sd/") for each in seen), seen
    bad = page.execute_script(
        "return performance.getEntriesByType('resource').filter(e => e.responseStatus >= 400).map(e => e.name)"
    )
    assert bad == []


# -- the APIs --------------------------------------------------------------------------------------------------------------


def test_the_own_api_tells_addresses_that_lead_back_here(proxy: Proxy) -> None:
    status, headers, told = proxy.ask("POST", "/sd/api/v1/jobs", {"prompt": RED, "steps": 2})
    assert status == 201 and headers["Location"] == f"/sd/api/v1/jobs/{told['id']}"
    done = proxy.ask("GET", f"{headers['Location']}?wait=30")[2]
    assert done["status"] == "done" and done["images"][0]["url"].startswith(f"{headers['Location']}/images/")
    status, headers, picture = proxy.ask("GET", done["images"][0]["url"])
    assert status == 200 and picture.startswith(b"\x89PNG") and headers["Strict-Transport-Security"]
    status, headers, told = proxy.ask("POST", "/sd/generate", {"prompt": RED, "steps": 2})
    assert status == 202 and headers["Location"] == f"/sd/result/{told['job_id']}"
    for document in ("/api/v1/openapi.json", "/v1/openapi.json", "/sdapi/v1/openapi.json"):
        assert proxy.ask("GET", f"/sd{document}")[2]["servers"] == [{"url": "/sd"}]
    assert proxy.ask("GET", "/sd/api/v1/nothing")[2]["error"]["code"] == "not_found"


def test_openai_s_client_and_a1111_s_work_under_the_prefix(proxy: Proxy) -> None:
    with openai.DefaultHttpxClient(verify=proxy.context) as http_client:
        sdk = openai.OpenAI(base_url=f"{proxy.origin}/sd/v1", api_key=KEY, http_client=http_client)
        told = sdk.images.generate(prompt=RED, extra_body={"steps": 2})
        assert told.data and (told.data[0].url or "").startswith(f"{proxy.origin}/sd/api/v1/jobs/")
        assert base64.b64decode(told.data[0].b64_json or "") == http_client.get(told.data[0].url or "", headers=AUTH).content
        kinds = [each.type for each in sdk.images.generate(prompt=RED, stream=True, extra_body={"steps": 2})]
        assert kinds[-1] == "image_generation.completed"
    api = webuiapi.WebUIApi(baseurl=f"{proxy.origin}/sd/sdapi/v1", username="ops", password=KEY)
    assert api.txt2img(prompt=RED, steps=2, width=128, height=128).image.size == (128, 128)


def test_events_come_one_by_one_and_a_long_poll_is_waited_for(proxy: Proxy) -> None:
    """The queue is at rest until the first event was read: whoever kept it back would wait for ever."""
    spool = proxy.house.spooler.spool
    spool.pause()
    try:
        job_id = proxy.ask("POST", "/sd/api/v1/jobs", {"prompt": RED, "steps": 2})[2]["id"]
        connection = proxy.connect()
        connection.request("GET", f"/sd/api/v1/jobs/{job_id}/events", headers=AUTH)
        answer = connection.getresponse()
        assert answer.readline() == b"event: job\n" and json.loads(answer.readline()[6:])["status"] == "waiting"
        assert proxy.ask("GET", f"/sd/api/v1/jobs/{job_id}?wait=1")[2]["status"] == "waiting"
    finally:
        spool.resume()
    rest = answer.read().decode()
    connection.close()
    assert json.loads(rest.rstrip().rpartition("data: ")[2])["status"] == "done"


def test_the_proxies_wait_longer_than_sdspool_does() -> None:
    """nginx gives up after a minute if it is not told otherwise; Caddy waits for ever."""
    found = re.search(r"proxy_read_timeout (\d+)s;", (ROOT / "deploy" / "nginx.conf").read_text())
    assert found and int(found[1]) > Settings().wait_s
    assert "timeout" not in (ROOT / "deploy" / "Caddyfile").read_text()


def test_uploads_pass_up_to_the_bound_and_beyond_it_sdspool_says_so(proxy: Proxy) -> None:
    job = b'--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{"prompt": "", "steps": 0}\r\n--b\r\n'
    begin, end = job + b'Content-Disposition: form-data; name="init_image"; filename="a.png"\r\n\r\n', b"\r\n--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    whole = begin + bytes(MAX_REQUEST_BYTES - 1 - len(begin) - len(end)) + end
    status, _, told = proxy.ask("POST", "/sd/api/v1/jobs", whole, Content_Type=kind)
    assert len(whole) == MAX_REQUEST_BYTES - 1 and status == 400 and told["error"]["code"] == "invalid_job"


# -- who it is -------------------------------------------------------------------------------------------------------------


def test_s5_wrong_keys_are_counted_by_the_client_s_own_address_which_it_cannot_choose(proxy: Proxy) -> None:
    def wrong(address: str, number: int = 0) -> int:
        made_up = f"198.51.100.{number}"
        return proxy.ask(
            "GET",
            "/sd/api/v1/jobs",
            address=address,
            Authorization="Bearer wrong",
            X_Forwarded_For=made_up,
            Forwarded=f"for={made_up}",
            X_Real_IP=made_up,
        )[0]

    bad, good = f"{proxy.address}0", f"{proxy.address}1"
    told = wait_for(lambda: (status := wrong(bad, 7)) == 429 and status, "the wrong keys to be too many")
    assert told == 429 and wrong(good) == 401, "somebody else is not shut out"
    assert proxy.ask("GET", "/sd/api/v1/jobs", address=good)[0] == 200
    assert f"a wrong key from {bad} " in proxy.house.log and "198.51.100" not in proxy.house.log


def test_s2_s3_the_outside_name_and_origin_are_ours_and_no_others(proxy: Proxy) -> None:
    def post(**headers: str) -> int:
        return proxy.ask("POST", "/sd/api/v1/queue/resume", {}, **headers)[0]

    assert post(Origin=proxy.origin) == post() == 200
    for other in (proxy.origin.replace("https", "http"), f"https://{NAME}", "https://attacker.example", "null"):
        assert post(Origin=other) == 403, other
        assert post(Origin=other, X_Forwarded_Proto="http", X_Forwarded_Host=other.rpartition("/")[2]) == 403, other
    # So far comes a client only that makes its Host up. Caddy keeps it out; nginx does when another server is its default.
    status, _, body = proxy.ask("GET", "/sd/api/v1/jobs", name="attacker.example", X_Forwarded_Host=NAME)
    assert status == 421 or (status == 200 and body == b"")


def test_nothing_that_a_client_makes_up_counts(proxy: Proxy) -> None:
    made_up = {"X_Forwarded_Prefix": "//attacker.example", "X_Forwarded_Host": "attacker.example", "X_Forwarded_Proto": "http"}
    status, headers, _ = proxy.ask("GET", "/sd/queue", Authorization="", **made_up)
    assert (status, headers["Location"]) == (303, "/sd/login?next=%2Fqueue")
    form = f"name=ops&key={KEY}&next=/gallery"
    status, headers, _ = proxy.ask(
        "POST", "/sd/login", form, Content_Type="application/x-www-form-urlencoded", Origin=proxy.origin, **made_up
    )
    assert (status, headers["Location"]) == (303, "/sd/gallery")
    assert "; Secure;" in headers["Set-Cookie"] and "Path=/sd" in headers["Set-Cookie"]


# -- without a proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trusted", ["", "192.0.2.1, 10.0.0.0/8", "127.0.0.1, ::1"])
def test_the_headers_count_from_a_trusted_address_alone(tmp_path: Path, trusted: str, caplog: pytest.LogCaptureFixture) -> None:
    client = make_app(tmp_path, f"ops operator {KEY}\n", trusted_proxies=trusted, floor_mib=0.0).test_client()
    said = {"X-Forwarded-For": "203.0.113.7, 198.51.100.9", "X-Forwarded-Proto": "https", "Origin": "https://localhost"}
    for peer, believed in (
        ("127.0.0.1", "127" in trusted),
        ("::ffff:127.0.0.1", "127" in trusted),
        ("10.1.2.3", "10." in trusted),
    ):
        answer = client.post("/login", data={"name": "ops", "key": "wrong"}, headers=said, environ_base={"REMOTE_ADDR": peer})
        own = peer.removeprefix("::ffff:")
        assert answer.status_code == 403 and caplog.messages[-1] == f"a wrong key from {'198.51.100.9' if believed else own}"
        good = client.post("/login", data={"name": "ops", "key": KEY}, headers=said, environ_base={"REMOTE_ADDR": peer})
        assert ("; Secure" in good.headers["Set-Cookie"]) is believed
    assert sum("speaks for another client" in each for each in caplog.messages) == (1 if "127" not in trusted else 0) or trusted


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("1.2.3.4:5678", "1.2.3.4"),
        ("203.0.113.7, 1.2.3.4:5678", "1.2.3.4"),
        ("[::1]:99", "::"),
        ("[2001:db8::7]", "2001:db8::"),
        ("2001:db8::7", "2001:db8::"),
        ("1.2.3.4:", "?"),
        ("1.2.3.4:5678:9", "?"),
        ("[1.2.3.4", "?"),
    ],
)
def test_s5_an_address_with_its_port_is_that_client_s(
    tmp_path: Path, said: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(tmp_path, f"ops operator {KEY}\n", trusted_proxies="127.0.0.1", floor_mib=0.0)
    app.test_client().post("/login", data={"name": "ops", "key": "wrong"}, headers={"X-Forwarded-For": said})
    assert caplog.messages[-1] == f"a wrong key from {client}"


def test_forms_lead_back_to_a_place_under_the_prefix_and_to_no_other(tmp_path: Path) -> None:
    client = make_app(tmp_path, prefix="/sd").test_client()
    for back, to in (
        ("/sd/queue?of=mine", "/sd/queue?of=mine"),
        ("/queue", "/sd/"),
        ("/sdx/", "/sd/"),
        ("//attacker.example", "/sd/"),
        ("/sd//x", "/sd//x"),
        ("/sd/..//attacker.example", "/sd/"),
        ("/sd/%2E./x", "/sd/"),
        ("", "/sd/"),
    ):
        answer = client.post("/theme", data={"theme": "dark", "back": back}, base_url="http://localhost/sd")
        assert (answer.status_code, answer.headers["Location"]) == (303, to)
        assert "Path=/sd" in answer.headers["Set-Cookie"]


def test_the_login_leads_to_a_place_under_the_prefix_and_to_no_other(tmp_path: Path) -> None:
    app = make_app(tmp_path, f"ops operator {KEY}\n", prefix="/sd")
    for wanted, to in (("/queue", "/sd/queue"), ("/..//x", "/sd/"), ("/%2e%2e/x", "/sd/"), ("/a/../../x", "/sd/")):
        given = {"name": "ops", "key": KEY, "next": wanted}
        answer = app.test_client().post("/login", data=given, base_url="http://localhost/sd")
        assert (answer.status_code, answer.headers["Location"]) == (303, to)


def test_settings_of_a_proxy_that_cannot_be_are_named() -> None:
    assert [str(each) for each in networks(" 10.0.0.0/8, ::1,")] == ["10.0.0.0/8", "::1/128"] and not networks("")
    assert [checked_prefix(each) for each in ("", "/sd", "/a/b-c.d")] == ["", "/sd", "/a/b-c.d"]
    for text in ("localhost", "10.0.0.1/8", "10.0.0.0/33"):
        with pytest.raises(ProxyError, match="--trusted-proxies: must be addresses or networks"):
            networks(text)
    for text in ("sd", "/", "/sd/", "//sd", "/../sd", "/./a", "/a b", "/ä", "/a?b", "/sd\n"):
        with pytest.raises(ProxyError, match="--prefix: must be as /sd"):
            checked_prefix(text)
    for path in (ROOT / "deploy" / "nginx.conf", ROOT / "deploy" / "Caddyfile"):
        for option in re.findall(r"(?<= )--[a-z-]+", path.read_text()):
            assert option in (ROOT / "docs" / "settings.md").read_text(), option


def test_s1_who_trusts_a_proxy_has_a_key_made_as_on_a_lan(tmp_path: Path) -> None:
    started = Started(tmp_path, "--trusted-proxies", "127.0.0.1")
    try:
        assert "made the key of `operator`" in started.said("made the key") and (tmp_path / "keys").exists()
    finally:
        started.stop()
    wrong = Started(tmp_path, "--prefix", "sd")
    assert "--prefix: must be as /sd" in wrong.said("--prefix") and wrong.process.wait(120) == 2
