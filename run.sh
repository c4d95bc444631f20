#!/usr/bin/env bash
# Sets up what is missing, then runs the two halves of sdspool and keeps them running.
#
# .venv is made once; .venv/made-from tells what from, and is written last, so that a later start runs no pip.
# .venv.unfinished stands while .venv is being changed: a set-up that was interrupted is begun anew.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
python=$root/.venv/bin/python
made_from=$root/.venv/made-from
unfinished=$root/.venv.unfinished
proxies=$root/.venv/proxies # nginx and Caddy, for the tests
stop_s=20 # time that a half has to end by itself before it is killed

usage() {
  cat <<'END'
./run.sh [option ...]            set up when needed, then serve; the options are the settings below
./run.sh setup                   only set up
./run.sh key add NAME            make a key, for people who are to come in over the network; also: key ls, key rm NAME
./run.sh worker [option ...]     draw jobs that a spooler elsewhere sends (docs/scale.md)
./run.sh demo-cluster            Redis, a store, two workers, spooler and page on this machine, to look at
./run.sh test [pytest argument]  set up with the development tools and a browser, then run the tests
./run.sh bench [name]            list the benchmarks, or run one
./run.sh prove [name ...]        run the slow proofs, or some, and write docs/reliability.md anew

It serves until Ctrl-C or SIGTERM; a half that dies is started again. Exit status: 0 when it was told to stop, 1 when the
set-up failed or a half had to be killed to stop, 2 when it cannot work as configured.
PYTHON=python3.12 ./run.sh sets up with that Python.

END
}

say() { printf 'sdspool: %s\n' "$*" >&2; }
fail() { say "$@" && exit 1; }

base_python() {
  local base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python must be 3.11 or newer, but $base is: $("$base" --version 2>&1 || true)"
  echo "$base"
}

what_from() { echo "$root [$1]" && cat "$root/pyproject.toml" "$root/constraints.txt"; }

is_set_up() { # serving is content with what a test has set up, which has a cluster's packages too
  [ ! -e "$unfinished" ] && "$python" -c 'import pip' 2>/dev/null || return 1
  local made more=
  case $1 in engine) more="engine,celery engine,dev" ;; engine,celery) more=engine,dev ;; esac
  for made in "$1" $more; do
    what_from "$made" | cmp -s - "$made_from" && return
  done
  return 1
}

set_up() ( # a subshell, so that the lock ends with it
  trap 'exit 130' INT
  is_set_up "$1" && exit
  cd "$root"
  exec 9>.venv.lock
  if command -v flock >/dev/null && ! flock -n 9; then
    say "Another run.sh is setting up; waiting for it."
    flock 9
    is_set_up "$1" && exit
  fi
  base=$(base_python)
  "$base" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$base lacks the module venv, which the set-up needs. On Debian or Ubuntu: apt-get install python3-venv"
  keep=
  if [ ! -e "$unfinished" ] && "$python" -c 'import pip' 2>/dev/null; then
    keep=yes
    say "Bringing .venv up to date ..."
    : >"$unfinished"
  else
    say "Setting up (a few minutes; fetches about 0.4 GB with a CPU build of torch, 3 GB with a CUDA build) ..."
    : >"$unfinished"
    rm -rf .venv
    "$base" -m venv .venv
  fi
  if ! "$python" -m pip install --quiet --no-input --disable-pip-version-check --constraint constraints.txt \
    --editable ".[$1]" >.venv/setup.log 2>&1; then
    tail -n 30 .venv/setup.log >&2
    [ ! "$keep" ] || rm "$unfinished" # pip finds and fetches everything before it changes anything
    fail "pip could not install what is needed: see above, or .venv/setup.log."
  fi
  what_from "$1" >"$made_from"
  rm "$unfinished"
  say "Set up in $SECONDS s; .venv has $(du -sm .venv | cut -f1) MB."
)

get_test_tools() {
  # Without its dependency torchvision, of which there is no CPU build that fits: the tests have a stand-in for it.
  "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("spandrel") and u.find_spec("einops")))' ||
    "$python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps spandrel==0.4.2 einops==0.8.2
  command -v chromium >/dev/null && command -v chromedriver >/dev/null && command -v strace >/dev/null && command -v npm >/dev/null && command -v curl >/dev/null &&
    command -v rsync >/dev/null && command -v redis-server >/dev/null && command -v systemd-analyze >/dev/null && have_proxies &&
    "$python" -c 'from PIL import ImageFont; ImageFont.truetype("DejaVuSans.ttf")' 2>/dev/null && return
  local root_here=(sudo -n) packages=(chromium chromium-driver strace fonts-dejavu-core rsync systemd redis-server)
  [ "$(id -u)" != 0 ] || root_here=()
  { command -v npm && command -v curl; } >/dev/null || packages+=(curl nodejs npm) # for the clients of the APIs that are written in JavaScript
  say "Installing what the tests need: ${packages[*]} ..."
  if ! { "${root_here[@]}" apt-get -qq update && "${root_here[@]}" apt-get -qq -y -o DPkg::Lock::Timeout=300 install \
    --no-install-recommends "${packages[@]}"; } </dev/null >/dev/null; then
    say "They are not all there, so some tests skip (in CI they fail). As root: apt-get install ${packages[*]}"
  fi
  have_proxies || get_proxies
}

have_proxies() { (PATH=$PATH:/usr/sbin:$proxies/usr/bin:$proxies/usr/sbin && command -v nginx && command -v caddy) >/dev/null; }

get_proxies() { # unpacked and no more: packages that are installed would be started, and take the ports 80 and 443
  rm -rf "$proxies" && mkdir "$proxies" && (
    cd "$proxies" && apt-get -qq download nginx caddy &&
      for package in ./*.deb; do dpkg -x "$package" . && rm "$package"; done
  ) </dev/null >/dev/null 2>&1 || say "nginx and Caddy could not be fetched, so the tests of docs/proxy.md skip (in CI they fail)."
}

# Ends with 2 and a sentence when an option is wrong, or what they name is somebody else's. Needs no set-up.
check_options() {
  local checker=$python
  [ -x "$python" ] || checker=$(base_python)
  PYTHONPATH=$root "$checker" -P -c '
import sys
from spooler.settings import Settings
from spooler.vacancy import taken
if why := taken(Settings.parse(sys.argv[1:], "./run.sh")):
    print(f"sdspool: {why}", file=sys.stderr)
    sys.exit(2)' "$@"
}

# One slot for each half: its process, or a `sleep` until it is started again. So there is always something to wait for, and
# one `wait -n` hears of everything.
serve() {
  local halves=(webui spooler) pids=() resting=('' '') starts=(0 0) began=(0 0) rest_s=(1 1) end='' i status
  start() {
    "$python" -m "${halves[i]}" "$@" &
    pids[i]=$! resting[i]='' began[i]=$SECONDS starts[i]=$((starts[i] + 1))
  }
  trap 'end=0' HUP INT TERM
  set +e
  for i in 0 1; do start "$@"; done
  while [ -z "$end" ]; do
    wait -n
    for i in 0 1; do
      if [ "$end" ] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
      wait "${pids[i]}"
      status=$?
      if [ "${resting[i]}" ]; then
        say "${halves[i]} ended with status ${resting[i]}; starting it again."
        start "$@"
      elif [ $status = 2 ] && [ "${starts[i]}" = 1 ]; then # it cannot work and has said why; one that did work is tried again
        end=2
      else
        [ $((SECONDS - began[i])) -lt 60 ] || rest_s[i]=1
        sleep "${rest_s[i]}" &
        pids[i]=$! resting[i]=$status rest_s[i]=$((rest_s[i] < 16 ? rest_s[i] * 2 : 30))
      fi
    done
  done
  kill -TERM "${pids[@]}" 2>/dev/null
  for ((i = 0; i < stop_s * 10; i++)); do
    kill -0 "${pids[@]}" 2>/dev/null || return "$end" # it fails when none of them is left
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null
  fail "A half did not stop within $stop_s s and was killed."
}

trap 'exit 130' INT # without it, bash goes on after a program that catches Ctrl-C itself
case ${1-} in
  setup)
    set_up engine
    ;;
  key)
    set_up engine
    PYTHONSAFEPATH=1 exec "$python" -m spooler.cli "$@"
    ;;
  worker)
    export PYTHONSAFEPATH=1
    set_up engine,celery
    exec "$python" -m spooler.cli "$@"
    ;;
  demo-cluster)
    set_up engine,dev
    get_test_tools
    cd "$root" && exec "$python" tools/demo_cluster.py "${@:2}"
    ;;
  test)
    set_up engine,dev
    get_test_tools
    cd "$root"
    # All of them: a file at a time in each of three processes, for a test mostly waits for processes of its own, and two
    # cores are left idle by two; the longest files first, as tests/conftest.py orders them.
    [ $# -gt 1 ] || exec "$python" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
    exec "$python" -m pytest "${@:2}"
    ;;
  bench)
    cd "$root"
    [ $# -gt 1 ] || exec awk 'FNR == 1 { gsub(/.*\/|\.py$/, "", FILENAME); sub(/^"+/, ""); print FILENAME ": " $0 }' bench/*.py
    case ${2%.py} in
      spool | serve) set_up engine,bench ;;
      cluster | growth) set_up engine,dev && get_test_tools ;;
      *) set_up engine ;;
    esac
    exec "$python" "bench/${2%.py}.py" "${@:3}"
    ;;
  prove)
    set_up engine,dev,prove
    get_test_tools
    cd "$root" && exec "$python" -m tests.prove "${@:2}"
    ;;
  *)
    # A path in the options starts from where the caller stands; the default spool is the one beside this script.
    export PYTHONSAFEPATH=1 SDSPOOL_SPOOL=${SDSPOOL_SPOOL:-$root/spool}
    case " $* " in
      *" -h "* | *" --help "*) usage && check_options --help && exit ;;
      *" --version "*) check_options --version && exit ;;
    esac
    check_options "$@"
    what=engine
    case "${SDSPOOL_DISPATCH-} $* " in redis*:* | *" --dispatch"[=\ ]*) what=engine,celery ;; esac
    set_up "$what"
    serve "$@"
    ;;
esac
